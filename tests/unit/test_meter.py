"""The meter of Linux reads machines laid out as files: cgroups of both versions, and none."""

import os
from pathlib import Path

import psutil
import pytest

from lmx.daemon.meter import LinuxMeter, Reading

MIB = 2**20
GIB = 2**30
NO_LIMIT_V1 = 9_223_372_036_854_771_712
MOUNT_V2 = "30 24 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = "33 24 0:29 {root} {point} rw - cgroup cgroup rw,{controllers}\n"


class Machine:
    """A file system with 100 GiB of memory, 60 of it available, and no cgroups yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {100 * 2**20} kB\nMemAvailable: {60 * 2**20} kB\n")
        self.write("proc/self/statm", "9000 50 4 1 0 300 0\n")

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def join(self, memberships: str, *mounts: str) -> None:
        self.write("proc/self/cgroup", memberships)
        self.write("proc/self/mountinfo", "".join(mounts).rstrip())

    def limit(self, folder: str, limit: object, current: int, **held: int) -> None:
        """A cgroup of version 2."""
        self.write(f"{folder}/memory.max", limit)
        self.write(f"{folder}/memory.current", current)
        self.write(f"{folder}/memory.stat", "\n".join(f"{k} {v}" for k, v in held.items()))

    def limit_v1(self, folder: str, limit: int, current: int, **held: int) -> None:
        self.write(f"{folder}/memory.limit_in_bytes", limit)
        self.write(f"{folder}/memory.usage_in_bytes", current)
        self.write(f"{folder}/memory.stat", "\n".join(f"{k} {v}" for k, v in held.items()))

    def read(self, *pids: int) -> Reading:
        return LinuxMeter(self.root, page_bytes=4096).read(pids)

    def gigabytes(self) -> tuple[float, float]:
        """Used and total, in GiB."""
        reading = self.read()
        return reading.used_bytes / GIB, reading.total_bytes / GIB


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine of this test's own."""
    return Machine(tmp_path)


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    """A line of ``mountinfo`` for version 2."""
    return MOUNT_V2.format(root=root, point=point)


def v1(root: str = "/", point: str = "/sys/fs/cgroup/memory", controllers: str = "memory") -> str:
    """A line of ``mountinfo`` for version 1."""
    return MOUNT_V1.format(root=root, point=point, controllers=controllers)


def test_without_cgroups_the_machine_counts(machine: Machine) -> None:
    """Used is what is not available, which leaves cached files out."""
    assert (40, 100) == machine.gigabytes()


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB", "MemTotal: x kB\nMemAvailable: 1 kB"])
def test_a_machine_that_tells_nothing(machine: Machine, text: str) -> None:
    """Without the two numbers of the machine there is no reading."""
    machine.write("proc/meminfo", text)
    with pytest.raises(OSError, match="meminfo"):
        machine.read()


def test_a_machine_without_proc(tmp_path: Path) -> None:
    """A missing file is an `OSError` too."""
    with pytest.raises(OSError, match="meminfo"):
        LinuxMeter(tmp_path / "nowhere").read([])


class TestVersion2:
    def test_a_limit(self, machine: Machine) -> None:
        """The limit is the total; the cgroup's charge is what is used."""
        machine.join("0::/lmx.slice/lmx.service", v2())
        machine.limit("sys/fs/cgroup/lmx.slice/lmx.service", 10 * GIB, 4 * GIB)
        assert (4, 10) == machine.gigabytes()

    def test_no_limit(self, machine: Machine) -> None:
        """The word ``max`` is no limit."""
        machine.join("0::/lmx.slice", v2())
        machine.limit("sys/fs/cgroup/lmx.slice", "max", 4 * GIB)
        assert (40, 100) == machine.gigabytes()

    def test_a_limit_beyond_the_machine(self, machine: Machine) -> None:
        """No limit adds memory to the machine."""
        machine.join("0::/lmx.slice", v2())
        machine.limit("sys/fs/cgroup/lmx.slice", 500 * GIB, 4 * GIB)
        assert (40, 100) == machine.gigabytes()

    def test_cached_files_are_free(self, machine: Machine) -> None:
        """Inactive pages of files count as free, and so do active ones that nobody maps."""
        machine.join("0::/c", v2())
        held = {"file": 7 * GIB, "inactive_file": 3 * GIB, "active_file": 4 * GIB}
        machine.limit("sys/fs/cgroup/c", 10 * GIB, 9 * GIB, **held, file_mapped=GIB)
        assert (3, 10) == machine.gigabytes()

    def test_mapped_files_are_used(self, machine: Machine) -> None:
        """Weights at work, mapped and active, are in use; no more is free than is cached."""
        machine.join("0::/c", v2())
        held = {"inactive_file": GIB, "active_file": 4 * GIB, "file_mapped": 5 * GIB}
        machine.limit("sys/fs/cgroup/c", 10 * GIB, 9 * GIB, **held)
        assert (8, 10) == machine.gigabytes()

    @pytest.mark.parametrize(("outer", "inner"), [(5, 10), (10, 5), ("max", 5), (5, "max")])
    def test_the_smallest_limit_on_the_way_up_counts(
        self, machine: Machine, outer: int | str, inner: int | str
    ) -> None:
        """A cgroup is bound by its parents' limits, at any level up to the mount."""
        machine.join("0::/a/b/c", v2())
        limits = [limit * GIB if isinstance(limit, int) else limit for limit in (outer, inner)]
        machine.limit("sys/fs/cgroup/a", limits[0], 2 * GIB)
        machine.limit("sys/fs/cgroup/a/b/c", limits[1], 2 * GIB)
        assert (2, 5) == machine.gigabytes()

    def test_the_kernel_kills_where_memory_runs_out_first(self, machine: Machine) -> None:
        """A neighbour that fills the parent leaves us less than our own limit would."""
        machine.join("0::/a/b", v2())
        machine.limit("sys/fs/cgroup/a", 20 * GIB, 19 * GIB)
        machine.limit("sys/fs/cgroup/a/b", 10 * GIB, 2 * GIB)
        assert (9, 10) == machine.gigabytes()

    def test_a_full_machine_fills_every_cgroup(self, machine: Machine) -> None:
        """What the machine has left bounds what a cgroup has left."""
        machine.write("proc/meminfo", f"MemTotal: {100 * 2**20} kB\nMemAvailable: {2**20} kB")
        machine.join("0::/a", v2())
        machine.limit("sys/fs/cgroup/a", 10 * GIB, 2 * GIB)
        assert (9, 10) == machine.gigabytes()

    def test_a_charge_beyond_the_limit(self, machine: Machine) -> None:
        """A limit lowered under the charge leaves nothing, not less."""
        machine.join("0::/a", v2())
        machine.limit("sys/fs/cgroup/a", 10 * GIB, 12 * GIB)
        assert (10, 10) == machine.gigabytes()

    def test_a_charge_below_what_is_cached(self, machine: Machine) -> None:
        """The files are read one after the other; what changes between is no negative use."""
        machine.join("0::/a", v2())
        machine.limit("sys/fs/cgroup/a", 10 * GIB, 2 * GIB, inactive_file=3 * GIB)
        assert (0, 10) == machine.gigabytes()

    def test_the_limit_that_slows_down_counts_too(self, machine: Machine) -> None:
        """``memory.high`` below ``memory.max`` is the limit."""
        machine.join("0::/a", v2())
        machine.limit("sys/fs/cgroup/a", 10 * GIB, 2 * GIB)
        machine.write("sys/fs/cgroup/a/memory.high", 8 * GIB)
        assert (2, 8) == machine.gigabytes()

    def test_a_container_with_a_namespace(self, machine: Machine) -> None:
        """Our cgroup is the root of what is mounted, and that has a limit."""
        machine.join("0::/", v2())
        machine.limit("sys/fs/cgroup", 8 * GIB, 6 * GIB)
        assert (6, 8) == machine.gigabytes()

    @pytest.mark.parametrize(
        ("path", "root"),
        [
            ("/host/docker/abc", "/docker/abc"),
            ("/", "/docker/abc"),
            ("/", "/../.."),
            ("/../other", "/"),
        ],
    )
    def test_a_path_outside_of_what_is_mounted(
        self, machine: Machine, path: str, root: str
    ) -> None:
        """Then the mount point is all there is to read."""
        machine.join(f"0::{path}", v2(root=root))
        machine.limit("sys/fs/cgroup", 8 * GIB, 6 * GIB)
        assert (6, 8) == machine.gigabytes()

    def test_a_mount_of_a_part(self, machine: Machine) -> None:
        """A path is taken from where the mount begins, and names may hold odd characters."""
        machine.join("0::/my pod/abc/x", v2(root=r"/my\040pod/abc", point=r"/sys/fs/c\040g"))
        machine.limit("sys/fs/c g/x", 8 * GIB, 6 * GIB)
        assert (6, 8) == machine.gigabytes()

    def test_without_statistics_all_is_used(self, machine: Machine) -> None:
        """A cgroup whose ``memory.stat`` cannot be read is still bound by its limit."""
        machine.join("0::/a", v2())
        machine.limit("sys/fs/cgroup/a", 10 * GIB, 4 * GIB)
        (machine.root / "sys/fs/cgroup/a/memory.stat").unlink()
        assert (4, 10) == machine.gigabytes()


class TestVersion1:
    def test_a_limit(self, machine: Machine) -> None:
        """The sums over all below count, under the names of version 1."""
        machine.join("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/y", v1())
        held = {"inactive_file": 1, "total_cache": 4 * GIB, "total_inactive_file": 2 * GIB}
        more = {"total_active_file": 2 * GIB, "total_mapped_file": GIB}
        folder = "sys/fs/cgroup/memory/docker/abc"
        machine.limit_v1(folder, 10 * GIB, 9 * GIB, **held, **more)
        assert (6, 10) == machine.gigabytes()

    def test_no_limit(self, machine: Machine) -> None:
        """The largest number there is means none."""
        machine.join("4:memory:/a", v1())
        machine.limit_v1("sys/fs/cgroup/memory/a", NO_LIMIT_V1, 4 * GIB)
        machine.limit_v1("sys/fs/cgroup/memory", NO_LIMIT_V1, 40 * GIB)
        assert (40, 100) == machine.gigabytes()

    def test_both_versions_at_once(self, machine: Machine) -> None:
        """Where version 2 is mounted without memory, version 1 has it; other mounts do not."""
        machine.join(
            "4:memory:/a\n2:cpu:/\n0::/",
            v1(point="/sys/fs/cgroup/cpu", controllers="cpu,cpuacct"),
            v1(),
            v2(point="/sys/fs/cgroup/unified"),
        )
        machine.limit_v1("sys/fs/cgroup/cpu/a", GIB, GIB)
        machine.limit_v1("sys/fs/cgroup/memory/a", 10 * GIB, 4 * GIB)
        machine.write("sys/fs/cgroup/unified/cgroup.controllers", "")
        assert (4, 10) == machine.gigabytes()


@pytest.mark.parametrize(
    ("memberships", "mounts"),
    [
        ("0::/a", ""),
        ("", v2()),
        ("nonsense\n\n::\n", v2()),
        ("0::/a", "no mount - cgroup2\n\n - \n"),
        ("4:memory:/a", v2()),
        ("0::/elsewhere", v2()),
    ],
)
def test_cgroups_that_lead_nowhere(machine: Machine, memberships: str, mounts: str) -> None:
    """What cannot be found does not limit."""
    machine.join(memberships, mounts)
    machine.limit("sys/fs/cgroup/a", GIB, GIB)
    assert (40, 100) == machine.gigabytes()


@pytest.mark.parametrize("name", ["memory.max", "memory.current"])
def test_files_that_cannot_be_read(machine: Machine, name: str) -> None:
    """A limit without its charge, or the reverse, does not count; the parents' do."""
    machine.join("0::/a/b", v2())
    machine.limit("sys/fs/cgroup/a", 20 * GIB, 3 * GIB)
    machine.limit("sys/fs/cgroup/a/b", 10 * GIB, 2 * GIB)
    file = machine.root / "sys/fs/cgroup/a/b" / name
    file.unlink()
    file.mkdir()  # unreadable for anybody, root included
    assert (3, 20) == machine.gigabytes()


def test_a_cgroup_name_that_is_no_text(machine: Machine) -> None:
    """Names are bytes, whatever they mean."""
    machine.join("", v2())
    (machine.root / "proc/self/cgroup").write_bytes(b"0::/\xff\n")
    machine.limit(os.fsdecode(b"sys/fs/cgroup/\xff"), 10 * GIB, 4 * GIB)
    assert (4, 10) == machine.gigabytes()


def test_resident_memory(machine: Machine) -> None:
    """Pages become bytes; processes that ended are left out."""
    machine.write("proc/7/statm", "100000 2560 12 1 0 300 0")
    machine.write("proc/8/statm", "")
    reading = machine.read(7, 8, 9)
    assert (50 * 4096, {7: 10 * MIB}) == (reading.daemon_bytes, reading.worker_bytes)


class TestOomKills:
    def test_version_2(self, machine: Machine) -> None:
        """Our own cgroup's count, not the machine's nor a parent's."""
        machine.join("0::/a/b", v2())
        machine.write("sys/fs/cgroup/a/memory.events", "oom 9\noom_kill 8")
        machine.write("sys/fs/cgroup/a/b/memory.events", "low 0\noom 3\noom_kill 2")
        machine.write("proc/vmstat", "oom_kill 50")
        assert 2 == machine.read().oom_kills

    def test_version_1(self, machine: Machine) -> None:
        """Version 1 keeps it elsewhere."""
        machine.join("4:memory:/a", v1())
        machine.write("sys/fs/cgroup/memory/a/memory.oom_control", "under_oom 0\noom_kill 3")
        assert 3 == machine.read().oom_kills

    def test_without_cgroups(self, machine: Machine) -> None:
        """The machine's count, or none at all."""
        assert 0 == machine.read().oom_kills
        machine.write("proc/vmstat", "nr_free_pages 7\noom_kill 5")
        assert 5 == machine.read().oom_kills


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads this machine's /proc")
def test_this_machine() -> None:
    """The real files give what psutil reads of them."""
    reading = LinuxMeter().read([os.getpid(), 2**22 + 1])
    assert 0 < reading.used_bytes <= reading.total_bytes <= psutil.virtual_memory().total
    expected = psutil.Process().memory_info().rss
    assert pytest.approx(expected, rel=0.1) == reading.daemon_bytes
    assert pytest.approx({os.getpid(): expected}, rel=0.1) == reading.worker_bytes
