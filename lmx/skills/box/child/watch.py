"""The process that watches a run: counts what all its processes use, and ends them all.

It is the first process of a run's own process ids, or, without those, the one that orphans come to.
It does not trust what it watches, and nothing of that runs in it.
"""

import os
import resource
import select
import signal
import sys
import time
from typing import NamedTuple

from lmx.skills.box.child.wire import ChildLimits, ChildReport, Ending

# Between two looks; a process can take about 50 MB of memory meanwhile.
_LOOK_MS = 20
# Rounds of killing what appears while killing, without process ids of its own.
_KILL_ROUNDS = 1000
_KILL_PAUSE_S = 0.001
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MEMORY_LINES = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_KIB = 1024


class Use(NamedTuple):
    """What processes use at one moment."""

    processes: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0


class Watch:
    """Watches one run.

    Args:
        control: Socket of the daemon; when it ends, so does the run.
        limits: Of all processes together.
        owns_pids: Whether this is the first process of process ids of its own.
    """

    def __init__(self, control: int, limits: ChildLimits, *, owns_pids: bool) -> None:
        self._control = control
        self._limits = limits
        self._owns_pids = owns_pids
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run may send it to this process
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def leave(self) -> None:
        """Undo, in a forked child that is to be something else."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.close(self._woken)
        os.close(self._wake)

    def run(self, main: int) -> ChildReport:
        """Wait until the run's main process ends or has to, then end all others.

        Args:
            main: Its process id; it leads a process group.
        """
        report = self._wait(main)
        self._kill_all(main)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report["cpu_s"] = used.ru_utime + used.ru_stime
        return report

    def _wait(self, main: int) -> ChildReport:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            status = self._reap(main)
            if status is not None:
                return _describe(status)
            over = self._exceeded()
            if over is not None:
                return {"ending": over}
            for descriptor, _ in poll.poll(_LOOK_MS):
                if descriptor == self._control:
                    return {"ending": "cancelled"}
                os.read(self._woken, 4096)

    def _reap(self, main: int) -> int | None:
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == main:
                found = status

    def _exceeded(self) -> Ending | None:
        used = self._measure()
        if used.processes > self._limits["processes"]:
            return "processes"
        if used.memory_bytes > self._limits["memory_bytes"]:
            return "memory"
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        if used.cpu_s + ended.ru_utime + ended.ru_stime > self._limits["cpu_s"]:
            return "cpu"
        return None

    def _measure(self) -> Use:
        if sys.platform != "linux":
            return Use()
        uses = [_measure_one(pid) for pid in self._pids()]
        return Use(
            sum(use.processes for use in uses),
            sum(use.memory_bytes for use in uses),
            sum(use.cpu_s for use in uses),
        )

    def _pids(self) -> list[int]:
        if self._owns_pids:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        return _descendants(os.getpid())

    def _kill_all(self, main: int) -> None:
        if self._owns_pids:
            _kill(-1)  # all but this process, in one stroke
            _reap_all()
            return
        _kill(-main)
        for _ in range(_KILL_ROUNDS):
            # Those that left the group, and what they start in the meantime.
            left = _descendants(os.getpid()) if sys.platform == "linux" else []
            for pid in left:
                _kill(pid)
            self._reap(main)
            if not left:
                break
            time.sleep(_KILL_PAUSE_S)
        _reap_all()


def _measure_one(pid: int) -> Use:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return Use()  # it has ended
    threads = memory = 0
    for line in lines:
        if line.startswith(b"Threads:"):
            threads = int(line.split()[1])
        elif line.startswith(_MEMORY_LINES):
            memory += int(line.split()[1]) * _KIB
    # proc(5): utime, stime, cutime and cstime are fields 14 to 17; the first here is the third.
    ticks = sum(int(field) for field in fields[11:15])
    return Use(max(1, threads), memory, ticks / _TICKS_PER_S)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    pending = [pid]
    while pending:
        for child in _children(pending.pop()):
            found.append(child)
            pending.append(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(text) for text in file.read().split()]
    except OSError:
        pass  # it has ended
    return found


def _describe(status: int) -> ChildReport:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"ending": "cpu"} if number == signal.SIGXCPU else _signalled(number)
    return {"ending": "exited", "number": os.WEXITSTATUS(status)}


def _signalled(number: int) -> ChildReport:
    return {"ending": "signalled", "number": number}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended; PermissionError is what macOS says of a group of zombies


def _reap_all() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _ignore(_number: int, _frame: object) -> None:
    """Be woken: a handler makes `set_wakeup_fd` hear of the signal."""
