"""Landlock: which files a process and its children may touch, granted path by path.

https://docs.kernel.org/userspace-api/landlock.html. Everything that the running kernel can forbid
is forbidden and then granted where the plan says so.
"""

import ctypes
import os
import stat
from typing import NamedTuple

from lmx.skills.box.child import kernel

_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
# Rights of files by version of the interface: number of bits.
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_BITS_NEWEST = 16
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
READ = _EXECUTE | _READ_FILE | _READ_DIR
DEVICE = _READ_FILE | _WRITE_FILE
WRITE = (1 << _BITS_NEWEST) - 1

_NETWORK_VERSION = 4
_SCOPE_VERSION = 6
_ALL_TCP = 3  # bind, connect
_ALL_SCOPES = 3  # abstract sockets, signals


def version() -> int:
    """Version of the interface; 0 where there is none."""
    return max(0, kernel.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION))


def scopes_signals(interface: int) -> bool:
    """Whether processes outside can be protected from signals."""
    return interface >= _SCOPE_VERSION


class Grant(NamedTuple):
    """A path, the rights at and below it, and whether symbolic links in it are followed."""

    path: str
    rights: int
    follow: bool = False


def restrict(grants: list[Grant], *, network: bool) -> None:
    """Restrict this process for good.

    Args:
        grants: What is allowed; a path that does not exist is left out.
        network: Whether TCP stays allowed.

    Raises:
        OSError: The kernel refuses it.
    """
    interface = version()
    handled = (1 << _BITS.get(interface, _BITS_NEWEST)) - 1
    tcp = _ALL_TCP if interface >= _NETWORK_VERSION and not network else 0
    scopes = _ALL_SCOPES if scopes_signals(interface) else 0
    words = 3 if scopes else 2 if interface >= _NETWORK_VERSION else 1
    attributes = (ctypes.c_uint64 * 3)(handled, tcp, scopes)
    size = words * ctypes.sizeof(ctypes.c_uint64)
    ruleset = kernel.check(kernel.syscall(_CREATE_RULESET, attributes, size, 0), "landlock")
    try:
        for grant in grants:
            _allow(ruleset, grant, handled)
        kernel.check(kernel.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, grant: Grant, handled: int) -> None:
    class PathBeneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))

    try:
        parent = kernel.open_path(grant.path, follow=grant.follow)
    except OSError:
        return
    rights = grant.rights & handled
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        rule = PathBeneath(rights, parent)
        result = kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        kernel.check(result, f"landlock {grant.path}")
    finally:
        os.close(parent)
