"""The process that watches a run: counts what all its processes use, and ends them all.

It is the first process of a run's own process ids, or, without those, the one that orphans come to.
It does not trust what it watches, and nothing of that runs in it.
"""

import os
import resource
import select
import signal
import time

from lmx.skills.box.child.processes import open_processes
from lmx.skills.box.child.wire import ChildLimits, ChildReport, Ending

# Between two looks; a process can take about 50 MB of memory meanwhile.
_LOOK_MS = 20
# Rounds of killing what appears while killing, without process ids of its own.
_KILL_ROUNDS = 1000
_KILL_PAUSE_S = 0.001


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
        self._processes = open_processes(owns_pids=owns_pids)
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
            over = self._exceeded(main)
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

    def _exceeded(self, main: int) -> Ending | None:
        used = self._processes.measure(self._processes.find(main))
        if used.processes > self._limits["processes"]:
            return "processes"
        if used.memory_bytes > self._limits["memory_bytes"]:
            return "memory"
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        if used.cpu_s + ended.ru_utime + ended.ru_stime > self._limits["cpu_s"]:
            return "cpu"
        return None

    def _kill_all(self, main: int) -> None:
        if self._owns_pids:
            _kill(-1)  # all but this process, in one stroke
            _reap_all()
            return
        _kill(-main)
        for _ in range(_KILL_ROUNDS):
            # Those that left the group, and what they start in the meantime.
            left = self._processes.find(main)
            for pid in left:
                _kill(pid)
            self._reap(main)
            if not left:
                break
            time.sleep(_KILL_PAUSE_S)
        _reap_all()


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
