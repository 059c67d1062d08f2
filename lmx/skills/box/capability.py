"""What this machine can contain, found out by trying: an empty run per combination.

Asking the kernel's version would not do: containers forbid what kernels offer.
"""

import sys
from collections.abc import Collection
from typing import Literal

import trio

from lmx.skills.box.child import landlock
from lmx.skills.box.plan import BoxCapability, BoxPlan, Limits
from lmx.skills.box.removal import remove_abandoned
from lmx.skills.box.runner import Box

Mechanism = Literal["namespaces", "landlock", "seccomp", "seatbelt"]
# Before this version files could be emptied that may only be read (Linux 6.2).
LANDLOCK_ENOUGH = 3
_TRIAL = BoxPlan(limits=Limits(wall_s=5.0))


async def detect_capability(without: Collection[Mechanism] = ()) -> BoxCapability:
    """Find out what contains runs on this machine; takes some hundred milliseconds.

    Removes what daemons that were killed have left in the temporary directory.

    Args:
        without: Mechanisms that are not to be used.
    """
    await trio.to_thread.run_sync(remove_abandoned, None)
    if sys.platform == "darwin":
        return await _detect_macos(without)
    found = BoxCapability(is_contained=False)
    reasons: list[str] = []
    wanted: list[tuple[Mechanism, BoxCapability]] = [
        ("landlock", BoxCapability(is_contained=False, landlock=landlock.version())),
        ("seccomp", BoxCapability(is_contained=False, seccomp=True)),
        ("namespaces", BoxCapability(is_contained=False, namespaces=True)),
    ]
    for name, alone in wanted:
        if name in without:
            reasons.append(f"{name}: not wanted")
            continue
        error = await _try(alone)
        if error is not None or (name == "landlock" and not alone.landlock):
            reasons.append(f"{name}: {error or 'not in this kernel'}")
            continue
        found = _join(found, alone)
    return _judge(found, reasons)


async def _detect_macos(without: Collection[Mechanism]) -> BoxCapability:
    if "seatbelt" in without:
        return BoxCapability(is_contained=False, reason="Runs are not contained: not wanted.")
    error = await _try(BoxCapability(is_contained=False, seatbelt=True))
    if error is not None:
        return BoxCapability(is_contained=False, reason=f"Runs are not contained: {error}.")
    return BoxCapability(is_contained=True, seatbelt=True, reason="Contained by sandbox profiles.")


async def _try(capability: BoxCapability) -> str | None:
    result = await Box(capability).run(_TRIAL)
    return None if result.is_good else result.error


def _join(one: BoxCapability, other: BoxCapability) -> BoxCapability:
    return BoxCapability(
        is_contained=False,
        namespaces=one.namespaces or other.namespaces,
        landlock=max(one.landlock, other.landlock),
        seccomp=one.seccomp or other.seccomp,
    )


def _judge(found: BoxCapability, reasons: list[str]) -> BoxCapability:
    used = [
        name
        for name, is_used in (
            ("namespaces", found.namespaces),
            (f"Landlock {found.landlock}", found.landlock),
            ("seccomp", found.seccomp),
        )
        if is_used
    ]
    is_contained = found.namespaces or (found.landlock >= LANDLOCK_ENOUGH and found.seccomp)
    missing = "; ".join(reasons)
    if is_contained:
        reason = f"Contained by {', '.join(used)}." + (f" Not used: {missing}." if missing else "")
    else:
        reason = f"Runs are not contained on this machine ({missing or 'Landlock is too old'})."
    return BoxCapability(
        is_contained=is_contained,
        namespaces=found.namespaces,
        landlock=found.landlock,
        seccomp=found.seccomp,
        reason=reason,
    )
