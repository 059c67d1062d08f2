"""One daemon per ``LMX_HOME``: a lock file that says who holds it and where it answers.

The kernel's lock (`flock`) decides, so whatever a daemon that died has left in the file is stale by
itself: a pid that is used again or a home that came from another machine cannot keep anybody out.
Where a file system has no locks, the file's content decides instead. The file stays when the
daemon ends, empty: a file that is removed could be locked by two. Descriptors are closed when
programs start, so no worker holds the lock.
"""

import errno
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from lmx.errors import AlreadyRunning, ConfigError

FILE_NAME = "lmx.lock"
LONGEST_RECORD_BYTES = 64 * 1024
# What `flock` says where there is no locking, as on some network file systems.
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
# Between two tries while the holder stops. Also how long somebody who only looks may hold it.
RETRY_S = 0.1
# A lock whose file names nobody alive is held by who starts this moment, or only looks.
UNKNOWN_HOLDER_WAIT_S = 1.0
PS_LIMIT_S = 5.0


class Holder(Struct, frozen=True, kw_only=True):
    """The daemon that a lock file names.

    Attributes:
        pid: Its process.
        started: When that process started, in words of the system that only it understands; empty
            where it does not say.
        host: The machine's name.
        at: When the daemon took the lock, in epoch seconds.
        url: Where it answers; empty before it does.
        is_stopping: It drains, and will be gone soon.
    """

    pid: int
    started: str = ""
    host: str = ""
    at: float = 0.0
    url: str = ""
    is_stopping: bool = False

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, or did."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether its process runs. That of another machine counts as alive: nobody can tell."""
        if not self.is_here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is somebody else's
        return not self.started or process_start(self.pid) == self.started

    def __str__(self) -> str:
        place = "" if self.is_here else f" on {self.host}"
        address = f", which answers at {self.url}" if self.url else ""
        return f"the daemon with pid {self.pid}{place}{address}"


class Lock(Struct, frozen=True):
    """A home's lock file, as somebody sees it who does not want it.

    Attributes:
        holder: Whom the file names, if it names anybody.
        is_held: Somebody has the lock.
    """

    holder: Holder | None
    is_held: bool

    @property
    def is_stale(self) -> bool:
        """Whether it was left by a daemon that died; the next start takes it over."""
        return self.holder is not None and not self.is_held


def lock_path(home: Path) -> Path:
    """Where the lock is."""
    return home / FILE_NAME


def read_lock(home: Path) -> Lock:
    """Look at a home's lock without taking it.

    Raises:
        OSError: It cannot be read, except that it is not there.
    """
    try:
        descriptor = os.open(lock_path(home), os.O_RDONLY)
    except FileNotFoundError:
        return Lock(None, is_held=False)
    try:
        holder = _read(descriptor)
        return Lock(holder, is_held=_is_held(descriptor, holder))
    finally:
        os.close(descriptor)


class Instance:
    """The lock as its holder has it. Its methods write a small file and never fail.

    Args:
        descriptor: Of the open lock file; closing it gives the lock back.
        holder: This process.
        left: What stood in the file.

    Attributes:
        left: The daemon before, if it died without giving the lock back.
    """

    def __init__(self, descriptor: int, holder: Holder, *, left: Holder | None) -> None:
        self.left = left
        self._descriptor = descriptor
        self._holder = holder

    def announce(self, url: str) -> None:
        """Say where the daemon answers."""
        self._write(msgspec.structs.replace(self._holder, url=url))

    def announce_stop(self) -> None:
        """Say that the daemon will be gone soon, so that the next one waits for it."""
        self._write(msgspec.structs.replace(self._holder, is_stopping=True))

    def give_back(self) -> None:
        """Leave the lock to the next one; nothing may be called after it."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _write(self, holder: Holder) -> None:
        self._holder = holder
        record = msgspec.json.encode(holder)
        with suppress(OSError):  # a full disk costs others the daemon's name, not the lock
            os.pwrite(self._descriptor, record, 0)
            os.ftruncate(self._descriptor, len(record))


@contextmanager
def hold_instance(home: Path, *, wait_s: float) -> Iterator[Instance]:
    """Be the only daemon of a home, which is made if it is not there.

    Args:
        home: ``LMX_HOME``.
        wait_s: How long to wait for a holder that is stopping.

    Raises:
        AlreadyRunning: Another daemon is; the message says which.
        ConfigError: The home cannot be written to.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = _take(home, wait_s)
    except OSError as error:
        raise ConfigError(
            f"LMX_HOME ({home}) cannot be used: {error.strerror or error}. Make it writable for "
            "this user, or set LMX_HOME to another directory"
        ) from error
    left = _read(descriptor)
    instance = Instance(descriptor, _this_process(), left=left)
    try:
        instance.announce("")
        yield instance
    finally:
        instance.give_back()


def process_start(pid: int) -> str:
    """When a process started, for comparison with nothing but another answer; empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _ask_ps(pid)
    # Field 22; the second one, a name in brackets, may hold blanks. Source: proc_pid_stat(5).
    return f"{boot}/{stat.rpartition(')')[2].split()[19]}"


def _ask_ps(pid: int) -> str:
    command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
    try:
        answer = subprocess.run(  # noqa: S603  # a fixed program and a number
            command, capture_output=True, check=False, timeout=PS_LIMIT_S, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " ".join(answer.stdout.split())


def _this_process() -> Holder:
    pid = os.getpid()
    started, host = process_start(pid), socket.gethostname()
    return Holder(pid=pid, started=started, host=host, at=round(time.time(), 3))


def _take(home: Path, wait_s: float) -> int:
    """The descriptor of the locked file."""
    begun_s = time.monotonic()
    while True:
        descriptor, holder = _try_take(lock_path(home))
        if descriptor is not None:
            return descriptor
        if time.monotonic() - begun_s >= _patience_s(holder, wait_s):
            who = "a process that it does not name" if holder is None else str(holder)
            raise AlreadyRunning(
                f"{lock_path(home)} is held by {who}. Stop it, or set LMX_HOME to another directory"
            )
        time.sleep(RETRY_S)


def _try_take(path: Path) -> tuple[int | None, Holder | None]:
    """The descriptor of the locked file, or `None`, and whom it names."""
    with ExitStack() as undo:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        undo.callback(os.close, descriptor)
        holder = _read(descriptor)
        if not _try_lock(descriptor) or not _is_at(descriptor, path):
            return None, holder
        undo.pop_all()
        return descriptor, holder


def _patience_s(holder: Holder | None, wait_s: float) -> float:
    if holder is None or not holder.is_alive:
        return UNKNOWN_HOLDER_WAIT_S
    return wait_s if holder.is_stopping else 0.0


def _try_lock(descriptor: int) -> bool:
    """Lock it; without locks, believe what it says."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        holder = _read(descriptor)
        return holder is None or not holder.is_alive
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one that the next daemon would find."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_held(descriptor: int, holder: Holder | None) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return holder is not None and holder.is_alive
    return False


def _read(descriptor: int) -> Holder | None:
    record = os.pread(descriptor, LONGEST_RECORD_BYTES, 0)
    try:
        return msgspec.json.decode(record, type=Holder)
    except msgspec.DecodeError:
        return None  # empty, being written, or not ours
