"""The meter of macOS: unified memory, as the kernel that kills for it counts.

What a process holds is its physical footprint, which is what jetsam judges by: unlike resident
memory it includes compressed pages and buffers that Metal allocated. `MacMeter` knows the
arithmetic, `LibSystem` the calls; the library is an argument, so that the structures are tested on
any system.
"""

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Protocol

from msgspec import Struct

from lmx.daemon.meter import Pressure, Reading

RUSAGE_INFO_V4 = 4
HOST_VM_INFO64 = 4
TEXT_BYTES = 256  # room for a name or a version
# Source: <sys/event.h>, NOTE_MEMORYSTATUS_PRESSURE_*, which the sysctl reports.
PRESSURES: dict[int, Pressure] = {1: "normal", 2: "warn", 4: "critical"}


class RusageInfoV4(ctypes.Structure):
    """What `proc_pid_rusage` fills, 296 bytes.

    Source: ``struct rusage_info_v4`` of <sys/resource.h>: a UUID of 16 bytes, then 35 numbers of
    64 bits: user_time, system_time, pkg_idle_wkups, interrupt_wkups, pageins, wired_size,
    resident_size, phys_footprint, and 27 that are not read here.
    """

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("before", ctypes.c_uint64 * 7),
        ("phys_footprint", ctypes.c_uint64),  # bytes, at offset 72
        ("after", ctypes.c_uint64 * 27),
    )


class VmStatistics64(ctypes.Structure):
    """What `host_statistics64` fills for ``HOST_VM_INFO64``, 152 bytes; counts are pages.

    Source: ``struct vm_statistics64``, revision 1, of <mach/vm_statistics.h>. The kernel fills as
    much as the caller has room for, so later revisions, which append, do not matter.
    """

    _fields_ = (
        ("free_count", ctypes.c_uint32),
        ("active_count", ctypes.c_uint32),
        ("inactive_count", ctypes.c_uint32),
        ("wire_count", ctypes.c_uint32),
        ("events", ctypes.c_uint64 * 9),  # zero_fill_count to purges
        ("purgeable_count", ctypes.c_uint32),
        ("speculative_count", ctypes.c_uint32),
        ("traffic", ctypes.c_uint64 * 4),  # decompressions to swapouts
        ("compressor_page_count", ctypes.c_uint32),
        ("throttled_count", ctypes.c_uint32),
        ("external_page_count", ctypes.c_uint32),
        ("internal_page_count", ctypes.c_uint32),
        ("total_uncompressed_pages_in_compressor", ctypes.c_uint64),
    )


class PageCounts(Struct, frozen=True, kw_only=True):
    """Pages of the machine: anonymous ones, those of them that may be purged, and so on."""

    internal: int
    purgeable: int
    wired: int
    compressor: int


class MacSystem(Protocol):
    """The kernel's answers. Every member raises `OSError` when there is none."""

    def read_footprint_bytes(self, pid: int) -> int:
        """Physical footprint of a process of the same user."""
        ...

    def read_sysctl(self, name: str) -> int:
        """A whole number by its name."""
        ...

    def count_pages(self) -> PageCounts:
        """Pages of the machine now."""
        ...


class LibSystem:
    """`MacSystem` by the C library.

    Args:
        library: The C library; by default the one this process is linked with.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            library = ctypes.CDLL(None, use_errno=True)
        self._rusage = library.proc_pid_rusage
        self._rusage.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        self._sysctl = library.sysctlbyname
        self._sysctl.argtypes = (
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.c_void_p,
            ctypes.c_size_t,
        )
        self._statistics = library.host_statistics64
        self._statistics.argtypes = (
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_uint32),
        )
        library.mach_host_self.restype = ctypes.c_uint32
        self._host = library.mach_host_self()  # once: every call adds a reference to the port

    def read_footprint_bytes(self, pid: int) -> int:
        """See `MacSystem`."""
        info = RusageInfoV4()
        if self._rusage(pid, RUSAGE_INFO_V4, ctypes.byref(info)) != 0:
            raise _last_error(f"proc_pid_rusage({pid})")
        return int(info.phys_footprint)

    def read_sysctl(self, name: str) -> int:
        """See `MacSystem`."""
        # A number of 32 bits fills the lower half, for all these machines are little-endian.
        value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
        pointers = ctypes.byref(value), ctypes.byref(size)
        if self._sysctl(name.encode(), *pointers, None, 0) != 0:
            raise _last_error(f"sysctl {name}")
        return value.value

    def read_sysctl_text(self, name: str) -> str:
        """A text by its name.

        Raises:
            OSError: There is none, or it is longer than any that is asked for.
        """
        value, size = ctypes.create_string_buffer(TEXT_BYTES), ctypes.c_size_t(TEXT_BYTES)
        if self._sysctl(name.encode(), value, ctypes.byref(size), None, 0) != 0:
            raise _last_error(f"sysctl {name}")
        return value.value.decode("utf-8", "replace")

    def count_pages(self) -> PageCounts:
        """See `MacSystem`."""
        statistics = VmStatistics64()
        count = ctypes.c_uint32(ctypes.sizeof(statistics) // 4)  # in numbers of 32 bits
        pointers = ctypes.byref(statistics), ctypes.byref(count)
        status = self._statistics(self._host, HOST_VM_INFO64, *pointers)
        if status != 0:
            raise OSError(f"host_statistics64 failed with status {status}")
        return PageCounts(
            internal=statistics.internal_page_count,
            purgeable=statistics.purgeable_count,
            wired=statistics.wire_count,
            compressor=statistics.compressor_page_count,
        )


class MacMeter:
    """Reads memory as Activity Monitor shows it, and the kernel's pressure level.

    Used is what cannot be dropped: anonymous pages that may not be purged, wired pages, and those
    that hold compressed ones. Cached files are free. There is no count of OOM kills.

    Args:
        system: The kernel's answers.
        page_bytes: Size of a page.
    """

    def __init__(
        self,
        system: MacSystem | None = None,
        *,
        page_bytes: int = os.sysconf("SC_PAGE_SIZE"),
    ) -> None:
        self._system = system or LibSystem()
        self._page_bytes = page_bytes

    def read(self, pids: Collection[int]) -> Reading:
        """See `lmx.daemon.meter.Meter`."""
        total = self._system.read_sysctl("hw.memsize")
        pages = self._system.count_pages()
        held = max(0, pages.internal - pages.purgeable) + pages.wired + pages.compressor
        footprints = {pid: self._footprint_bytes(pid) for pid in pids}
        return Reading(
            used_bytes=min(total, held * self._page_bytes),
            total_bytes=total,
            daemon_bytes=self._footprint_bytes(os.getpid()) or 0,
            worker_bytes={pid: size for pid, size in footprints.items() if size is not None},
            pressure=self._pressure(),
        )

    def _footprint_bytes(self, pid: int) -> int | None:
        """`None` once the process has ended."""
        with suppress(OSError):
            return self._system.read_footprint_bytes(pid)
        return None

    def _pressure(self) -> Pressure:
        """Normal where it is not told: the percentage guards alone then."""
        with suppress(OSError):
            level = self._system.read_sysctl("kern.memorystatus_vm_pressure_level")
            return PRESSURES.get(level, "normal")
        return "normal"


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
