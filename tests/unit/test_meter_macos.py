"""The meter of macOS: its arithmetic with canned answers, its calls against a library of ours.

The library's functions are C function pointers that write bytes packed by hand, so that they hold
the structures to their layout, not to themselves.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable

import pytest

from lmx.daemon.meter import Reading
from lmx.daemon.meter_macos import LibSystem, MacMeter, PageCounts, RusageInfoV4, VmStatistics64

PAGE_BYTES = 16_384
TOTAL_BYTES = 192 * 2**30
PRESSURE = "kern.memorystatus_vm_pressure_level"


class CannedSystem:
    """A kernel with fixed answers; a name or process it does not know is an `OSError`."""

    def __init__(self, footprints: dict[int, int], pages: PageCounts, **sysctls: int) -> None:
        self._footprints = footprints
        self._pages = pages
        self._sysctls = sysctls

    def read_footprint_bytes(self, pid: int) -> int:
        if pid not in self._footprints:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        return self._footprints[pid]

    def read_sysctl(self, name: str) -> int:
        if name not in self._sysctls:
            raise OSError(errno.ENOENT, name)
        return self._sysctls[name]

    def count_pages(self) -> PageCounts:
        return self._pages


def read(pages: PageCounts, *pids: int, **sysctls: int) -> Reading:
    """A reading of a Mac with 192 GiB, where process 7 holds 5,000 bytes and we 3,000."""
    footprints = {os.getpid(): 3000, 7: 5000}
    system = CannedSystem(footprints, pages, **{"hw.memsize": TOTAL_BYTES}, **sysctls)
    return MacMeter(system, page_bytes=PAGE_BYTES).read(pids)


PAGES = PageCounts(internal=1000, purgeable=300, wired=50, compressor=7)


def test_used_memory() -> None:
    """Anonymous pages but purgeable ones, wired pages and the compressor's."""
    reading = read(PAGES)
    assert (757 * PAGE_BYTES, TOTAL_BYTES) == (reading.used_bytes, reading.total_bytes)


def test_used_memory_stays_in_bounds() -> None:
    """Counts taken at different moments give neither less than nothing nor more than all."""
    assert 0 == read(PageCounts(internal=1, purgeable=2, wired=0, compressor=0)).used_bytes
    full = PageCounts(internal=2**31, purgeable=0, wired=2**31, compressor=0)
    assert TOTAL_BYTES == read(full).used_bytes


def test_footprints() -> None:
    """Processes that ended are left out."""
    reading = read(PAGES, 7, 8)
    assert (3000, {7: 5000}) == (reading.daemon_bytes, reading.worker_bytes)


@pytest.mark.parametrize(
    ("level", "pressure"), [(1, "normal"), (2, "warn"), (4, "critical"), (0, "normal")]
)
def test_pressure(level: int, pressure: str) -> None:
    """The kernel's levels have names; one it never gives is none."""
    assert pressure == read(PAGES, **{PRESSURE: level}).pressure


def test_pressure_that_is_not_told() -> None:
    """Without a level there is still a reading."""
    assert "normal" == read(PAGES).pressure


def test_a_mac_that_tells_nothing() -> None:
    """Without the size of memory there is no reading."""
    system = CannedSystem({}, PAGES)
    with pytest.raises(OSError, match=r"hw\.memsize"):
        MacMeter(system).read([])


def test_sizes() -> None:
    """The structures are as large as the system's headers make them."""
    assert (296, 72) == (ctypes.sizeof(RusageInfoV4), RusageInfoV4.phys_footprint.offset)
    assert 152 == ctypes.sizeof(VmStatistics64)


def function(result: type | None, *arguments: type) -> Callable[[Callable[..., int]], object]:
    """Turn a Python function into a pointer to a C function."""
    return ctypes.CFUNCTYPE(result, *arguments, use_errno=True)


@function(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
def proc_pid_rusage(pid: int, flavour: int, buffer: int) -> int:
    """Process 7 has the numbers 100 to 134; no other exists."""
    if (pid, flavour) != (7, 4):
        ctypes.set_errno(errno.ESRCH)
        return -1
    ctypes.memmove(buffer, struct.pack("<16s35Q", b"uuid", *range(100, 135)), 296)
    return 0


@function(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.c_void_p,
    ctypes.c_size_t,
)
def sysctlbyname(
    name: bytes, old: int, size: "ctypes._Pointer[ctypes.c_size_t]", *_: object
) -> int:
    """One number of 64 bits, one of 32."""
    known = {b"hw.memsize": struct.pack("<Q", TOTAL_BYTES), PRESSURE.encode(): b"\x04\0\0\0"}
    if name not in known or size.contents.value < len(known[name]):
        ctypes.set_errno(errno.ENOENT)
        return -1
    ctypes.memmove(old, known[name], len(known[name]))
    size.contents.value = len(known[name])
    return 0


@function(
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint32),
)
def host_statistics64(
    host: int, flavour: int, buffer: int, count: "ctypes._Pointer[ctypes.c_uint32]"
) -> int:
    """Numbers 1 to 24 in the order of the header, for host 99 alone."""
    if (host, flavour, count.contents.value) != (99, 4, 38):
        return 5
    ctypes.memmove(buffer, struct.pack("<4I9Q2I4Q4IQ", *range(1, 25)), 152)
    return 0


class Library:
    """What `LibSystem` calls, on a machine whose host port is `host`."""

    def __init__(self, host: int) -> None:
        self.proc_pid_rusage = proc_pid_rusage
        self.sysctlbyname = sysctlbyname
        self.host_statistics64 = host_statistics64
        self.mach_host_self = function(ctypes.c_uint32)(lambda: host)


def test_calls() -> None:
    """Each call passes what the system's headers say and picks the right numbers."""
    system = LibSystem(Library(99))
    assert 107 == system.read_footprint_bytes(7)
    assert (TOTAL_BYTES, 4) == (system.read_sysctl("hw.memsize"), system.read_sysctl(PRESSURE))
    assert PageCounts(internal=23, purgeable=14, wired=4, compressor=20) == system.count_pages()


def test_calls_that_fail() -> None:
    """Each failure is an `OSError` that says which call it was."""
    system = LibSystem(Library(1))
    with pytest.raises(ProcessLookupError, match=r"proc_pid_rusage\(8\)"):
        system.read_footprint_bytes(8)
    with pytest.raises(FileNotFoundError, match=r"sysctl hw\.nothing"):
        system.read_sysctl("hw.nothing")
    with pytest.raises(OSError, match="status 5"):
        system.count_pages()


def test_a_reading_by_the_library() -> None:
    """All together: 23 - 14 + 4 + 20 pages are used, the pressure is critical."""
    reading = MacMeter(LibSystem(Library(99)), page_bytes=PAGE_BYTES).read([7, 8])
    assert (33 * PAGE_BYTES, "critical") == (reading.used_bytes, reading.pressure)
    assert {7: 107} == reading.worker_bytes
