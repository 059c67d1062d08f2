"""A file system, a network and process ids of the run's own (Linux namespaces).

The file system is empty but for what the plan names: each path is mounted at its own place, for
reading or for writing, and the temporary directory is one in memory. What is not mounted has no
name.
"""

import os
import stat

from lmx.skills.box.child import kernel
from lmx.skills.box.child.wire import ChildPlan

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
_TEMP_FILES = 16_384
_NO_EXTRAS = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
_READ_ONLY = _NO_EXTRAS | kernel.MOUNT_ATTR_RDONLY


def enter(plan: ChildPlan, owner: tuple[int, int] | None) -> tuple[int, int] | None:
    """Move this process into namespaces of its own; its children get process ids of their own.

    The file system is made but not yet entered: that is the first child's work, see `seal`.

    Args:
        plan: What is mounted, and whether the network stays.
        owner: User and group that the run should have, if not this process' own.

    Returns:
        The user and group that it can have: in a user namespace there is but one.

    Raises:
        OSError: The kernel does not allow it.
    """
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if not plan["network"]:
        flags |= kernel.CLONE_NEWNET
    if not _has_unshared(flags):
        enter_user_namespace(flags)
        owner = None
    _build_root(plan, owner)
    return owner


def _has_unshared(flags: int) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        kernel.unshare(flags)
    except PermissionError:
        return False  # root of a container, without its privileges
    return True


def seal(plan: ChildPlan, *, writable: bool) -> None:
    """Enter the file system that `enter` made, and lose sight of all others.

    To be called by the first process with process ids of its own. The view of these is mounted
    while the old one is still there: without privileges that is a condition.

    Args:
        plan: The same.
        writable: Whether what is in ``/proc`` may be written, as far as it can be.

    Raises:
        OSError: The kernel does not allow it.
    """
    root = plan["temp"]
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    flags |= 0 if writable else kernel.MS_RDONLY
    kernel.mount("proc", _make_directory(root, "/proc"), "proc", flags=flags)
    kernel.restrict_mount(root, _READ_ONLY, deep=False)
    kernel.enter_root(root)


def enter_user_namespace(flags: int = 0) -> None:
    """A user namespace in which this process keeps its user, and has all privileges in it."""
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _build_root(plan: ChildPlan, owner: tuple[int, int] | None) -> None:
    root = plan["temp"]
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", "", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", flags=flags, options="size=1m,nr_inodes=4096,mode=0755")
    # First, so that what is placed at a link's target and what is placed at the link are one.
    early = [path for path in plan["links"] if _depth(path) == 1]
    _link(root, plan, early)
    system = set(plan["system"])
    writes = set(plan["writes"])
    hidden = set(plan["hidden"])
    _place_devices(root)
    # A path within another comes after it, and covers what is at its place.
    for path in sorted({*system, *plan["reads"], *writes, *hidden}, key=_depth):
        if path in hidden:
            _hide(root, path)
        else:
            attributes = _NO_EXTRAS if path in writes else _READ_ONLY
            _place(root, path, attributes, follow=path in system)
    _link(root, plan, [path for path in plan["links"] if path not in early])
    temp = _make_directory(root, plan["temp"])
    user, group = owner or (os.geteuid(), os.getegid())
    size = f"size={plan['limits']['temp_bytes']},nr_inodes={_TEMP_FILES},mode=0700"
    kernel.mount("tmpfs", temp, "tmpfs", flags=flags, options=f"{size},uid={user},gid={group}")


def _depth(path: str) -> int:
    return path.count("/")


def _link(root: str, plan: ChildPlan, paths: list[str]) -> None:
    for path in paths:
        if not os.path.lexists(root + path):
            _make_directory(root, os.path.dirname(path))
            os.symlink(plan["links"][path], root + path)


def _place(root: str, path: str, attributes: int, *, follow: bool) -> None:
    target = root + path
    source = kernel.open_path(path, follow=follow)
    try:
        _bind(root, path, source)
    finally:
        os.close(source)
    kernel.restrict_mount(target, attributes, deep=True)


def _bind(root: str, path: str, source: int) -> None:
    target = root + path
    if stat.S_ISDIR(os.fstat(source).st_mode):
        _make_directory(root, path)
    elif not os.path.lexists(target):
        _make_directory(root, os.path.dirname(path))
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    flags = kernel.MS_BIND | kernel.MS_REC
    kernel.mount(f"/proc/self/fd/{source}", target, "", flags=flags)


def _place_devices(root: str) -> None:
    _make_directory(root, "/dev")
    for path in DEVICES:
        os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.mount(path, root + path, "", flags=kernel.MS_BIND)
        # A device on such a mount is still written to, but its mode cannot be changed.
        kernel.restrict_mount(root + path, _READ_ONLY & ~kernel.MOUNT_ATTR_NODEV, deep=False)
    for path, target in _DEVICE_LINKS.items():
        os.symlink(target, root + path)


def _hide(root: str, path: str) -> None:
    target = root + path
    if not os.path.lexists(target):
        return
    if os.path.isdir(target):
        kernel.mount("tmpfs", target, "tmpfs", options="size=64k,mode=0755")
    else:
        kernel.mount(root + "/dev/null", target, "", flags=kernel.MS_BIND)


def _make_directory(root: str, path: str) -> str:
    os.makedirs(root + path, mode=0o755, exist_ok=True)
    return root + path
