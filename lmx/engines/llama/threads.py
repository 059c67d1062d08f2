"""How many threads llama.cpp computes with: one per physical core this process may use."""

import os
import subprocess
import sys
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
SYSCTL_TIMEOUT_S = 5


def choose_threads(asked: int | None) -> int:
    """The setting if there is one, else physical cores.

    Two threads of one core share its vector units, which decoding keeps busy; on Apple silicon the
    efficiency cores hold the others up, so only performance cores count.
    """
    if asked is not None:
        return asked
    if sys.platform == "darwin":
        return performance_cores() or os.cpu_count() or 1
    return max(1, min(physical_cores(os.sched_getaffinity(0), CPUS), quota_cores(CGROUP_LIMIT)))


def physical_cores(usable: set[int], folder: Path) -> int:
    """Cores behind these CPU numbers; one per number where the system does not say."""
    cores = set()
    for cpu in usable:
        topology = folder / f"cpu{cpu}" / "topology"
        try:
            package = (topology / "physical_package_id").read_text().strip()
            core = (topology / "core_id").read_text().strip()
        except OSError:
            return len(usable)
        cores.add((package, core))
    return len(cores)


def quota_cores(path: Path) -> int:
    """The control group's share of the machine in cores, rounded up; a large number without one."""
    try:
        quota, period = path.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return sys.maxsize


def performance_cores() -> int | None:
    """Apple silicon's performance cores; `None` where there is no such count."""
    command = ["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        output = subprocess.run(  # noqa: S603  # a fixed command
            command, capture_output=True, check=True, timeout=SYSCTL_TIMEOUT_S
        ).stdout
        return int(output)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
