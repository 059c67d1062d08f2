"""The box as the desk and the search use it: what contains runs is found out at the first one.

Finding out takes some processes of its own, which a daemon that runs no skill never pays.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
import trio

from lmx.skills.box.capability import detect_capability
from lmx.skills.box.plan import BoxCapability, BoxPlan, BoxResult
from lmx.skills.box.runner import Box

# What a run has sent is read within this time of its end.
AFTERMATH_S = 1.0

log = structlog.get_logger("lmx.skills")


class Containment:
    """Runs plans in the best box this machine has.

    Args:
        home: LMX's home directory, which runs do not see.
        secrets: More files that they do not see.
        environment: Where permitted variables are taken from.
    """

    def __init__(
        self,
        home: Path,
        *,
        secrets: Sequence[Path] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._home = home
        self._secrets = tuple(secrets)
        self._environment = environment
        self._finding = trio.Lock()
        self._box: Box | None = None
        self._connected_count = 0
        self._disconnected_s = -math.inf

    @property
    def is_connected(self) -> bool:
        """Whether a run may have sent what comes from this machine now."""
        if self._connected_count:
            return True
        return trio.current_time() < self._disconnected_s + AFTERMATH_S

    async def capability(self) -> BoxCapability:
        """What contains a run on this machine; found out when first asked."""
        return (await self._opened()).capability

    async def run(self, plan: BoxPlan) -> BoxResult:
        """Run a plan to its end; cancelling ends it at once."""
        box = await self._opened()
        if box.capability.is_contained and not plan.permissions.network:
            return await box.run(plan)
        self._connected_count += 1
        try:
            return await box.run(plan)
        finally:
            self._connected_count -= 1
            self._disconnected_s = trio.current_time()

    async def _opened(self) -> Box:
        async with self._finding:
            if self._box is None:
                capability = await detect_capability()
                level = log.info if capability.is_contained else log.warning
                level("containment of skills", reason=capability.reason)
                self._box = Box(
                    capability,
                    home=self._home,
                    secrets=self._secrets,
                    environment=self._environment,
                )
            return self._box
