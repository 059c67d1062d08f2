"""The calls to the kernel that Python has no functions for, each raising `OSError` when refused.

Linux alone knows most of them. It decides nothing: what to call when is its callers' business.
"""

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_LIMIT = 64  # the kernel refuses those that it does not have
_MOUNT_SETATTR = 442
_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 4
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}

MACHINE = os.uname().machine
_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Give a call's result.

    Raises:
        OSError: It was -1; the message begins with `what`.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """Make a system call; integers are passed as longs, the rest as ctypes has it."""
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *given))


def prctl(option: int, argument: object = 0, other: object = 0) -> None:
    """Change something of this process."""
    given = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (argument, other)]
    check(_libc.prctl(option, *given, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def set_dumpable(value: int) -> None:
    """Whether others of this user may look into this process."""
    prctl(_PR_SET_DUMPABLE, value)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    check(_libc.unshare(flags), "namespaces")


def mount(source: str, target: str, kind: str, *, flags: int = 0, options: str = "") -> None:
    """Mount something."""
    arguments = [os.fsencode(text) for text in (source, target, kind)]
    data = options.encode() or None
    check(_libc.mount(*arguments, ctypes.c_ulong(flags), data), f"mount {target}")


def restrict_mount(path: str, attributes: int, *, deep: bool) -> None:
    """Take rights from a mount and, if `deep`, from all below it. Linux 5.12 and later."""
    values = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if deep else 0
    name = ctypes.c_char_p(os.fsencode(path))
    result = syscall(_MOUNT_SETATTR, _AT_FDCWD, name, flags, values, ctypes.sizeof(values))
    check(result, f"mount_setattr {path}")


def open_path(path: str, *, follow: bool) -> int:
    """A descriptor that stands for a path and opens nothing.

    Args:
        path: Absolute.
        follow: Whether symbolic links in it are followed. If not, what the path meant when it was
            checked is what it means now.
    """
    if follow:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    name = ctypes.c_char_p(os.fsencode(path))
    return check(syscall(_OPENAT2, _AT_FDCWD, name, how, ctypes.sizeof(how)), path)


def enter_root(path: str) -> None:
    """Make a mount this process' root and let go of the old one."""
    os.chdir(path)
    here = ctypes.c_char_p(b".")
    check(syscall(_PIVOT_ROOT[MACHINE], here, here), "pivot_root")
    check(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up all privileges, and the way to get them back through a program."""
    for capability in range(_CAPABILITY_LIMIT):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # unknown from here on, or not allowed: `forbid_new_privileges` stays
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    check(syscall(_CAPSET[MACHINE], header, none), "capset")


def forbid_new_privileges() -> None:
    """No program that is run from here on gets more rights than this process has."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def install_filter(program: bytes) -> None:
    """Filter system calls from here on.

    Args:
        program: Instructions of classic BPF, eight bytes each.
    """

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    whole = Program(len(program) // 8, program)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole))


def apply_profile(profile: str) -> None:
    """Put this process and its children into a sandbox of macOS."""
    message = ctypes.c_char_p()
    if _libc.sandbox_init(profile.encode(), ctypes.c_uint64(0), ctypes.byref(message)) != 0:
        text = (message.value or b"").decode(errors="replace")
        raise OSError(f"the sandbox profile was refused: {text}")
