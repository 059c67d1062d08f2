"""What the skill's own process gives up before the skill's code runs in it, for good."""

import os
import resource
import stat
import sys

from lmx.skills.box.child import kernel, landlock, namespaces, seccomp
from lmx.skills.box.child.landlock import Grant
from lmx.skills.box.child.wire import ChildLimits, ChildPlan

NOBODY = 65534
# The run yields the processors to the models, and goes first when the machine runs out of memory.
_NICE = 10
_OOM_SCORE = b"1000"
# Entries of a granted folder that are looked at to see whether anybody may read it.
_LOOKED_AT = 256
# The watching processes count too in a namespace of their own.
_OWN_PROCESSES = 3

Owner = tuple[int, int]


def choose_owner(plan: ChildPlan) -> Owner | None:
    """The user and group that a run of root's becomes: nobody, if that can use all that is granted.

    Otherwise it stays root without privileges, which other mechanisms contain.
    """
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    paths_count_too = not plan["mechanisms"]["namespaces"]
    for path in (*plan["system"], *plan["reads"]):
        if not _allows_others(path, stat.S_IROTH):
            return None
        if paths_count_too and not _is_reachable(path):
            return None
    if all(_allows_others(path, stat.S_IROTH | stat.S_IWOTH) for path in plan["writes"]):
        return NOBODY, NOBODY
    return None


def _allows_others(path: str, rights: int) -> bool:
    mode = os.stat(path).st_mode
    if not stat.S_ISDIR(mode):
        return mode & rights == rights
    if mode & (rights | stat.S_IXOTH) != rights | stat.S_IXOTH:
        return False
    with os.scandir(path) as entries:
        for _, entry in zip(range(_LOOKED_AT), entries, strict=False):
            if not entry.is_symlink() and not entry.stat().st_mode & stat.S_IROTH:
                return False
    return True


def _is_reachable(path: str) -> bool:
    while (path := os.path.dirname(path)) != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
    return True


def limit(limits: ChildLimits, *, counts_processes: bool) -> None:
    """Set what one process may use.

    Args:
        limits: Those of the run.
        counts_processes: Whether this user has a count of its own, so that it can be limited.
    """
    cpu_s = int(limits["cpu_s"]) + 1
    memory = limits["memory_bytes"]
    values = [
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        # Not RLIMIT_AS: some programs reserve addresses by the gigabyte and never use them. Memory
        # that does not count here is seen by the watching process.
        (resource.RLIMIT_DATA, memory),
    ]
    if counts_processes:
        values.append((resource.RLIMIT_NPROC, limits["processes"] + _OWN_PROCESSES))
    for which, value in values:
        _, hard = resource.getrlimit(which)
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (wanted, wanted))


def be_humble() -> None:
    """Let everything else on the machine go first."""
    os.nice(_NICE)
    if sys.platform == "linux":
        try:
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(_OOM_SCORE)
        except OSError:
            pass  # some systems hide it; the run's own limits hold all the same


def become(owner: Owner) -> None:
    """Become another user, which only root can."""
    user, group = owner
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    kernel.set_dumpable(1)  # or what is in /proc would belong to root


def has_own_count(owner: Owner | None, *, namespaced: bool) -> bool:
    """Whether processes of this user can be counted for this run alone; enters what it takes."""
    if not namespaced or os.geteuid() == 0:
        return False
    if owner is not None:
        try:
            namespaces.enter_user_namespace()
        except OSError:
            return False
    return True


def contain(plan: ChildPlan) -> None:
    """Restrict files, network and system calls for good.

    Raises:
        OSError: One of the mechanisms that the plan asks for does not work.
    """
    mechanisms = plan["mechanisms"]
    if mechanisms["seatbelt"] is not None:
        kernel.apply_profile(mechanisms["seatbelt"])
    if sys.platform != "linux":
        return
    kernel.drop_capabilities()
    kernel.forbid_new_privileges()
    has_space = mechanisms["namespaces"]
    if mechanisms["landlock"]:
        landlock.restrict(_grants(plan), network=plan["network"])
    if mechanisms["seccomp"]:
        scoped = mechanisms["landlock"] and landlock.scopes_signals(landlock.version())
        program = seccomp.build_filter(
            kernel.MACHINE,
            network=plan["network"],
            metadata=has_space,
            signals=has_space or scoped,
        )
        kernel.install_filter(program)


def _grants(plan: ChildPlan) -> list[Grant]:
    grants = [Grant(path, landlock.READ, follow=True) for path in plan["system"]]
    grants += [Grant(path, landlock.READ) for path in plan["reads"]]
    grants += [Grant(path, landlock.WRITE) for path in (*plan["writes"], plan["temp"])]
    grants += [Grant(path, landlock.DEVICE) for path in namespaces.DEVICES]
    if plan["mechanisms"]["namespaces"]:
        grants.append(Grant("/proc", landlock.READ))
    return grants
