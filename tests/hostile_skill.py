"""A skill that means harm, one function per way; run in a box by the tests, never in their process.

Only the standard library, because it is copied into a folder of its own. `attempt` and the
functions of its table say what happened in a word: ``done``, or the name of the error.
"""

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

PAGE_BYTES = 4096
CHUNK_BYTES = 1_000_000


def spin(*, shield: bool = False) -> NoReturn:
    """Loop for ever, deaf to every signal that can be ignored."""
    if shield:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
            signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def sleep(mark: str = "") -> NoReturn:
    """Wait for ever; says that it has begun."""
    print(mark, flush=True)
    while True:
        time.sleep(1000)


def bomb_forks() -> NoReturn:
    """Fork for ever, in every child too."""
    while True:
        try:
            os.fork()
        except OSError:
            continue


def bomb_threads() -> NoReturn:
    """Start threads for ever."""
    while True:
        try:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        except RuntimeError:
            continue


def allocate(size_bytes: int) -> int:
    """Take memory at once and use it."""
    return len(bytearray(size_bytes))


def allocate_shared(size_bytes: int) -> int:
    """Take shared memory, which no limit of one process counts, and use it."""
    memory = mmap.mmap(-1, size_bytes)
    for offset in range(0, size_bytes, PAGE_BYTES):
        memory[offset] = 1
    return size_bytes


def allocate_in_children(size_bytes: int, count: int) -> NoReturn:
    """Take memory in several processes, none of which takes too much."""
    for _ in range(count):
        if os.fork() == 0:
            block = bytearray(size_bytes)
            time.sleep(1000 + len(block))
    time.sleep(1000)
    os._exit(0)


def print_for_ever(descriptor: int) -> NoReturn:
    """Write without an end."""
    data = b"x" * CHUNK_BYTES
    while True:
        os.write(descriptor, data)


def return_much(size_bytes: int) -> str:
    """Return more than anybody wants."""
    return "x" * size_bytes


def leave_zombies(count: int, stay_s: float = 0) -> int:
    """Start children that end, never ask how, and stay as long as told."""
    for _ in range(count):
        try:
            pid = os.fork()
        except BlockingIOError:  # as many as a user may have: it is seen soon
            break
        if pid == 0:
            os._exit(0)
    time.sleep(stay_s)
    return count


def leave_daemon() -> str:
    """Leave a process behind that has left its parent, its session and its group."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            spin(shield=True)
        os._exit(0)
    os.wait()
    return "left"


def crash(how: str) -> None:
    """End in a bad way."""
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(3)
    raise RuntimeError(how)


def fill_folder(depth: int, files: int) -> str:
    """Make a deep folder without permissions and many files."""
    for number in range(files):
        with open(f"file{number}", "w") as file:
            file.write("x")
    os.symlink("/", "root")
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.mkdir("locked", 0)
    return "filled"


def fill_disk(size_bytes: int) -> int:
    """Write one large file after the other."""
    written = 0
    data = b"x" * CHUNK_BYTES
    number = 0
    while written < size_bytes:
        with open(f"file{number}", "wb") as file:
            for _ in range(10):
                file.write(data)
                written += len(data)
        number += 1
    return written


def open_many() -> int:
    """Open files until no more can be; gives their number."""
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(held)


def lie_about_result() -> None:
    """Write something else where the result belongs."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b'{"value": ' + b"[" * 100_000)
        except OSError:
            continue
    os._exit(0)


def descriptors() -> list[int]:
    """Which descriptors are open."""
    found = []
    for descriptor in range(256):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return found


def show_environment() -> dict[str, str]:
    """All variables, as Python and as the kernel have them."""
    shown = dict(os.environ)
    try:
        with open("/proc/self/environ") as file:
            shown["(kernel)"] = file.read()
    except OSError:
        pass
    return shown


def stay(seconds: float) -> str:
    """Do nothing for a while."""
    time.sleep(seconds)
    return "stayed"


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return f"read {len(file.read(100))}"


def _write(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"hostile")


def _list(path: str) -> str:
    return f"listed {len(os.listdir(path))}"


def _read_through_link(path: str) -> str:
    os.symlink(path, "link")
    return _read("link")


def _read_through_hardlink(path: str) -> str:
    os.link(path, "hard")
    return _read("hard")


def _read_through_root(path: str) -> str:
    return _read(f"/proc/self/root{path}")


def _read_upwards(path: str) -> str:
    return _read("../" * 40 + path.lstrip("/"))


def _read_in_program(path: str) -> str:
    return f"read {len(subprocess.run(['cat', path], capture_output=True, check=True).stdout)}"


def _empty(path: str) -> None:
    os.truncate(path, 0)


def _connect(path: str) -> None:
    host, _, port = path.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2):
        pass


def _send_datagram(path: str) -> None:
    host, _, port = path.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (host, int(port)))


def _connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path.replace("@", "\0"))


def _send_through_pair(path: str) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", path)


def _kill(path: str) -> None:
    os.kill(int(path), signal.SIGKILL)


def _limit(path: str) -> None:
    import resource  # noqa: PLC0415 - Linux and macOS alone have it

    resource.prlimit(int(path), resource.RLIMIT_NOFILE, (0, 0))


def _call(path: str) -> None:
    """A system call, by its number and arguments."""
    number, *arguments = (int(part, 0) for part in path.split())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments)) == -1:
        raise OSError(ctypes.get_errno(), "refused")


def _become_root(_path: str) -> None:
    os.setresuid(0, 0, 0)
    os.setgroups([0])


_WAYS: dict[str, Callable[[str], str | None]] = {
    "read": _read,
    "write": _write,
    "list": _list,
    "read through a link": _read_through_link,
    "read through a hard link": _read_through_hardlink,
    "read through the root": _read_through_root,
    "read upwards": _read_upwards,
    "read in a program": _read_in_program,
    "truncate": _empty,
    "remove": os.unlink,
    "change mode": lambda path: os.chmod(path, 0o777),
    "make a folder": os.mkdir,
    "connect": _connect,
    "send a datagram": _send_datagram,
    "connect to a unix socket": _connect_unix,
    "send through a pair": _send_through_pair,
    "kill": _kill,
    "limit": _limit,
    "call": _call,
    "become root": _become_root,
}


def attempt(ways: list[tuple[str, str]]) -> list[str]:
    """Try one thing after the other; a word for each."""
    return [_try(way, path) for way, path in ways]


def _try(way: str, path: str) -> str:
    try:
        return _WAYS[way](path) or "done"
    except (OSError, subprocess.CalledProcessError) as error:
        return type(error).__name__


def take(**arguments: Any) -> Any:
    """Whatever it was given."""
    return arguments
