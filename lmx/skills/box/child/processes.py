"""Which processes belong to a run, and what they use: from /proc, or from the library of macOS.

Processes end while they are looked at; what has ended uses nothing.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MEMORY_LINES = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_KIB = 1024


class Use(NamedTuple):
    """What processes use at one moment; threads count as processes where they can be seen."""

    processes: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0


class Processes(Protocol):
    """The processes of a run."""

    def find(self, main: int) -> list[int]:
        """Those that live, without the process that asks.

        Args:
            main: The run's main process, a child of the one that asks, with a group of its own.
        """

    def measure(self, pids: Iterable[int]) -> Use:
        """What they use together."""


def open_processes(*, owns_pids: bool) -> Processes:
    """The processes of a run on this system.

    Args:
        owns_pids: Whether the process that asks is the first of process ids of its own.
    """
    return LinuxProcesses(owns_pids=owns_pids) if sys.platform == "linux" else MacProcesses()


class LinuxProcesses:
    """All of this view of ``/proc`` if process ids are the run's own, else all descendants."""

    def __init__(self, *, owns_pids: bool) -> None:
        self._owns_pids = owns_pids

    def find(self, main: int) -> list[int]:
        """See `Processes`."""
        if self._owns_pids:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        found: list[int] = []
        pending = [os.getpid()]
        while pending:
            children = _read_children(pending.pop())
            found += children
            pending += children
        return found

    def measure(self, pids: Iterable[int]) -> Use:
        """See `Processes`."""
        return _add(_read_use(pid) for pid in pids)


class MacProcesses:
    """The group of the main process, all descendants, and what was either at an earlier look.

    A process that leaves its parents and its group between two looks is not seen.

    Args:
        library: The C library; by default the one this process is linked with.
    """

    _BY_GROUP = 2  # PROC_PGRP_ONLY and PROC_PPID_ONLY of <sys/proc_info.h>
    _BY_PARENT = 6
    _MOST = 4096
    _RUSAGE_INFO_V2 = 2
    _RUSAGE_WORDS = 20  # a UUID of two, then numbers: see `lmx.daemon.meter_macos`
    _FOOTPRINT = 9
    _START = 10

    def __init__(self, library: Any = None) -> None:
        self._library = library or ctypes.CDLL(None, use_errno=True)
        self._seen: dict[int, int] = {}  # when each began, as a process id may be given again

    def find(self, main: int) -> list[int]:
        """See `Processes`."""
        found = {*self._list(self._BY_GROUP, main), main}
        pending = [os.getpid(), *found]
        while pending:
            new = [pid for pid in self._list(self._BY_PARENT, pending.pop()) if pid not in found]
            found.update(new)
            pending += new
        found.update(pid for pid, start in self._seen.items() if self._read(pid)[1] == start)
        self._seen = {pid: self._read(pid)[1] for pid in found}
        return [pid for pid, start in self._seen.items() if start]

    def measure(self, pids: Iterable[int]) -> Use:
        """See `Processes`. CPU time is left to the limit of each process."""
        return _add(Use(1, self._read(pid)[0]) for pid in pids)

    def _list(self, kind: int, value: int) -> list[int]:
        buffer = (ctypes.c_int32 * self._MOST)()
        size = ctypes.sizeof(buffer)
        filled = self._library.proc_listpids(kind, ctypes.c_uint32(value), buffer, size)
        return [pid for pid in buffer[: max(0, filled) // 4] if pid > 0]

    def _read(self, pid: int) -> tuple[int, int]:
        """Memory in bytes, and when it began; zeros once it has ended."""
        words = (ctypes.c_uint64 * self._RUSAGE_WORDS)()
        if self._library.proc_pid_rusage(pid, self._RUSAGE_INFO_V2, words) != 0:
            return 0, 0
        return words[self._FOOTPRINT], words[self._START]


def _add(uses: Iterable[Use]) -> Use:
    processes = memory_bytes = 0
    cpu_s = 0.0
    for use in uses:
        processes += use.processes
        memory_bytes += use.memory_bytes
        cpu_s += use.cpu_s
    return Use(processes, memory_bytes, cpu_s)


def _read_use(pid: int) -> Use:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return Use()
    threads = memory = 0
    for line in lines:
        if line.startswith(b"Threads:"):
            threads = int(line.split()[1])
        elif line.startswith(_MEMORY_LINES):
            memory += int(line.split()[1]) * _KIB
    # proc(5): utime, stime, cutime and cstime are fields 14 to 17; the first here is the third.
    ticks = sum(int(field) for field in fields[11:15])
    return Use(max(1, threads), memory, ticks / _TICKS_PER_S)


def _read_children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(text) for text in file.read().split()]
    except OSError:
        pass
    return found
