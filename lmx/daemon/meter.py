"""How much memory there is and who holds it, and the meter of Linux.

Knows files, not policy: `Reading` is what `lmx.daemon.guardian` judges, and any object with
`read` can take the place of a meter. Every reading opens a dozen small files, so it belongs in a
thread. The root of the file system is an argument, so that tests lay out machines of their own.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from msgspec import Struct

# Above `memory.high` the kernel does not kill, but slows its processes down to a crawl.
LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
OOM_COUNTERS = ("memory.events", "memory.oom_control")
# A line of /proc/self/cgroup: hierarchy, controllers, path.
MEMBERSHIP = re.compile(r"^(\d+):([^:\n]*):(.*)$", re.MULTILINE)
# A line of /proc/self/mountinfo: number, parent, device, root, mount point, ... - kind, source,
# options, of which the controllers are some in version 1.
MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$", re.MULTILINE)

Pressure = Literal["normal", "warn", "critical"]


class Reading(Struct, frozen=True, kw_only=True):
    """Memory at one moment.

    Attributes:
        used_bytes: What of the total is taken, by anybody, and not given back on demand.
        total_bytes: What LMX could use at most: the machine's memory or a smaller limit.
        daemon_bytes: Held by this process; 0 where that cannot be read.
        worker_bytes: Process id to bytes held, of those asked for that still run.
        oom_kills: Processes the kernel has killed for want of memory, among those that share the
            limit; 0 where it does not tell.
        pressure: The operating system's own verdict, where it gives one.
    """

    used_bytes: int
    total_bytes: int
    daemon_bytes: int
    worker_bytes: dict[int, int]
    oom_kills: int = 0
    pressure: Pressure = "normal"


class Meter(Protocol):
    """Reads memory. Called in a thread, one call at a time."""

    def read(self, pids: Collection[int]) -> Reading:
        """Memory now, with what each of these processes holds.

        Raises:
            OSError: The machine's memory cannot be read.
        """
        ...


class LinuxMeter:
    """Reads ``/proc`` and the memory controller of cgroups, version 2 and 1, also side by side.

    The total is the smallest of the machine's memory and the limits from our cgroup upwards. What
    is free is the least that the machine and each limited cgroup has left, because the kernel
    kills at whichever runs out first. Limits that cannot be read do not count.

    Source: ``Documentation/admin-guide/cgroup-v2.rst`` (memory.max, memory.high, memory.current,
    memory.stat, memory.events), ``cgroup-v1/memory.rst`` and ``proc.rst`` of the kernel.

    Args:
        root: Where ``proc`` and the mount points are found.
        page_bytes: Size of a page, in which ``statm`` counts.
    """

    def __init__(
        self, root: Path = Path("/"), *, page_bytes: int = os.sysconf("SC_PAGE_SIZE")
    ) -> None:
        self._root = root
        self._proc = root / "proc"
        self._page_bytes = page_bytes

    def read(self, pids: Collection[int]) -> Reading:
        """See `Meter`."""
        machine = _read_table(self._proc / "meminfo")
        try:
            total = 1024 * machine["MemTotal:"]
            free = 1024 * machine["MemAvailable:"]
        except KeyError as error:
            raise OSError(f"{self._proc / 'meminfo'} has no {error}") from error
        folders = [folder for leaf in self._find_cgroups() for folder in leaf]
        for limit, used in filter(None, map(_read_limit, folders)):
            total, free = min(total, limit), min(free, limit - used)
        resident = {pid: self._resident_bytes(str(pid)) for pid in pids}
        return Reading(
            used_bytes=total - max(0, free),
            total_bytes=total,
            daemon_bytes=self._resident_bytes("self") or 0,
            worker_bytes={pid: size for pid, size in resident.items() if size is not None},
            oom_kills=self._count_oom_kills(folders),
        )

    def _resident_bytes(self, process: str) -> int | None:
        """Resident bytes, pages of mapped files included; `None` once the process has ended."""
        with suppress(OSError, ValueError, IndexError):
            resident_pages = (self._proc / process / "statm").read_text().split()[1]
            return self._page_bytes * int(resident_pages)
        return None

    def _find_cgroups(self) -> Iterator[list[Path]]:
        """For each hierarchy that may limit memory, our cgroup's folder and those above it."""
        try:
            # Names of cgroups are bytes, like those of files.
            memberships = os.fsdecode((self._proc / "self/cgroup").read_bytes())
            mounts = os.fsdecode((self._proc / "self/mountinfo").read_bytes())
        except OSError:
            return
        paths: dict[str, str] = {}
        for number, controllers, path in MEMBERSHIP.findall(memberships):
            if number == "0":
                paths["cgroup2"] = path
            elif "memory" in controllers.split(","):
                paths["cgroup"] = path
        for root, point, kind, options in MOUNT.findall(mounts):
            if kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
                yield self._folders(paths[kind], _unescape(root), _unescape(point))

    def _folders(self, path: str, root: str, point: str) -> list[Path]:
        """The folder of cgroup `path` and those above it, where `root` is mounted at `point`."""
        top = self._root / point.lstrip("/")
        inside = PurePosixPath(path)
        # A container may see the path that its host uses, or one outside of its namespace; all it
        # can read then is the mount point.
        if not inside.is_relative_to(root):
            return [top]
        parts = inside.relative_to(root).parts
        return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]

    def _count_oom_kills(self, folders: list[Path]) -> int:
        counters = [folder / name for folder in folders for name in OOM_COUNTERS]
        for path in (*counters, self._proc / "vmstat"):
            with suppress(OSError, KeyError):
                return _read_table(path)["oom_kill"]
        return 0


def _read_limit(folder: Path) -> tuple[int, int] | None:
    """A cgroup's limit and what of it is used, in bytes; `None` if it has none to be read.

    Version 1 says "none" by a limit beyond any machine's memory, which the machine's own undercuts.
    """
    limits = [_read_number(folder / name) for name in LIMITS]
    used = _read_number(folder / "memory.current")
    if used is None:
        used = _read_number(folder / "memory.usage_in_bytes")
    limit = min((each for each in limits if each is not None), default=None)
    if limit is None or used is None:
        return None
    try:
        held = _read_table(folder / "memory.stat")
    except OSError:
        held = {}
    return limit, max(0, used - _reclaimable_bytes(held))


def _reclaimable_bytes(held: dict[str, int]) -> int:
    """Cached pages of files that the kernel drops before it kills.

    Pages read more than once count as active. Of these, pages that nobody maps are as free as
    inactive ones: a model file loaded twice must not look like memory in use. Pages mapped are a
    model's weights at work.
    """
    # Version 1 has the sums over all below in names of their own.
    prefix, mapped = ("total_", "mapped_file") if "total_cache" in held else ("", "file_mapped")
    unmapped = held.get(f"{prefix}active_file", 0) - held.get(f"{prefix}{mapped}", 0)
    return held.get(f"{prefix}inactive_file", 0) + max(0, unmapped)


def _read_number(path: Path) -> int | None:
    with suppress(OSError, ValueError):  # ValueError: the word "max"
        return int(path.read_text())
    return None


def _read_table(path: Path) -> dict[str, int]:
    """Lines of a name and a number; other lines are left out."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _unescape(path: str) -> str:
    """A path as ``mountinfo`` writes it, with its octal escapes resolved."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
