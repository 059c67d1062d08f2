"""The memory guardian: keeps the machine below the point where the kernel starts to kill.

Theory of operation. A meter is read once per period, in a thread. From the warning level on an
event says so, once per crossing. At the critical level every reading takes one step of relief,
each dearer than the last, and the next reading tells whether it was enough:

    shrink caches, stop admitting, then at every reading unload an idle model or else the largest

Below the warning level requests are admitted again. Between the levels they are admitted again
after a while: weights alone can stay there for ever, and must not keep a healthy model idle.

The guardian decides when; what a step means is the loader's, behind `Relief`.
"""

from collections.abc import Collection
from typing import NoReturn, Protocol

import structlog
import trio
from msgspec import Struct

from lmx.config import MemorySettings, Settings
from lmx.daemon.gauge import Gauge
from lmx.daemon.meter import Pressure, Reading
from lmx.daemon.telemetry import Telemetry

# How far use must fall below the warning level before a new crossing is told, so that use which
# wavers around the level is no stream of warnings.
HYSTERESIS_PERCENT = 2.0
# Readings in a row below the critical level after which relief counts as over.
HOLD_READINGS = 10

log = structlog.get_logger("lmx.guardian")


class Relief(Protocol):
    """What can be done about memory. Implemented by the loader."""

    @property
    def worker_pids(self) -> Collection[int]:
        """The processes that hold models."""
        ...

    def shrink_caches(self) -> None:
        """Ask every worker to give back what only makes it faster. Returns at once."""
        ...

    def set_admitting(self, *, is_admitting: bool) -> None:
        """Refuse new requests, to be tried again later, or accept them again."""
        ...

    async def evict_idle(self) -> str | None:
        """Unload the least recently used model that nobody uses.

        Returns:
            Its id once its process is gone; `None` if there is no such model.
        """
        ...

    async def unload_biggest(self) -> str | None:
        """Unload the largest model at once; its requests end with `OutOfMemory`.

        Returns:
            Its id once its process is gone; `None` if no model is loaded.
        """
        ...


class Usage(Struct, frozen=True):
    """Memory in use out of what may be used, and the system's verdict."""

    used_bytes: int
    total_bytes: int
    pressure: Pressure

    @property
    def percent(self) -> float:
        """Share in use; above 100 when more is used than may be."""
        return 100.0 * self.used_bytes / max(1, self.total_bytes)

    def __str__(self) -> str:
        used, total = self.used_bytes / 1e9, self.total_bytes / 1e9
        verdict = "" if self.pressure == "normal" else f", memory pressure: {self.pressure}"
        return f"{self.percent:.1f}% ({used:.1f}/{total:.1f} GB){verdict}"


def measure_usage(settings: MemorySettings, reading: Reading) -> Usage:
    """What the levels are compared with: LMX within its own budget, else all of the machine."""
    if settings.budget_gb is None:
        return Usage(reading.used_bytes, reading.total_bytes, reading.pressure)
    own_bytes = reading.daemon_bytes + sum(reading.worker_bytes.values())
    return Usage(own_bytes, round(settings.budget_gb * 1e9), reading.pressure)


def budget_bytes(settings: MemorySettings, reading: Reading) -> int:
    """What models may reserve together: all that is below the critical level, less the daemon."""
    usable = measure_usage(settings, reading).total_bytes * settings.critical_percent / 100
    return max(0, int(usable) - reading.daemon_bytes)


class Guardian:
    """Watches memory and makes room.

    Args:
        settings: The levels and the period.
        gauge: Read once per period; one that fails changes nothing but a line in the log.
        relief: Makes room.
        telemetry: Told about crossings and unloaded models.

    Attributes:
        is_admitting: Whether requests are accepted as far as memory goes.
    """

    def __init__(
        self, settings: Settings, gauge: Gauge, relief: Relief, *, telemetry: Telemetry
    ) -> None:
        self._settings = settings
        self._gauge = gauge
        self._relief = relief
        self._telemetry = telemetry
        self.is_admitting = True
        self._can_read = True
        self._is_warned = False
        self._has_shrunk = False
        self._is_exhausted = False  # nothing was left to unload
        self._readings_held = 0  # since the last critical one

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Read and act for ever; has started once the first reading is judged.

        Cancellation:
            Leaves a reading that hangs to its thread.
        """
        await self._check()
        task_status.started()
        while True:
            await trio.sleep(self._settings.memory.period_s)
            await self._check()

    async def _check(self) -> None:
        reading = await self._read()
        if reading is None:
            self._hold()
            return
        usage = measure_usage(self._settings.memory, reading)
        self._warn(usage)
        if usage.percent >= self._settings.memory.critical_percent or usage.pressure == "critical":
            self._readings_held = 0
            await self._relieve(usage)
        elif usage.percent >= self._settings.memory.warning_percent or usage.pressure == "warn":
            self._hold()
        else:
            self._recover()

    async def _read(self) -> Reading | None:
        try:
            reading = await self._gauge.read(self._relief.worker_pids)
        except OSError as error:
            if self._can_read:
                log.warning("memory cannot be read", reason=str(error))
            self._can_read = False
            return None
        self._can_read = True
        return reading

    def _warn(self, usage: Usage) -> None:
        """Tell of a crossing of the warning level, upwards only."""
        level = self._settings.memory.warning_percent
        if self._is_warned:
            level -= HYSTERESIS_PERCENT
        is_over = usage.percent >= level or usage.pressure != "normal"
        if is_over and not self._is_warned:
            message = f"Memory usage at {usage}"
            log.warning(message)
            self._publish("memory_warning", usage, message)
        self._is_warned = is_over

    async def _relieve(self, usage: Usage) -> None:
        """Take the next step of relief."""
        if not self._has_shrunk:
            self._has_shrunk = True
            log.warning("caches shrink to free memory", usage=str(usage))
            self._relief.shrink_caches()
        elif self.is_admitting:
            log.warning("requests are refused for want of memory", usage=str(usage))
            self._set_admitting(is_admitting=False)
        else:
            await self._unload(usage)

    async def _unload(self, usage: Usage) -> None:
        model_id = await self._relief.evict_idle()
        if model_id is None:
            model_id = await self._relief.unload_biggest()
        if model_id is not None:
            self._is_exhausted = False
            message = f"Memory critical at {usage.percent:.1f}% — unloading model"
            log.error(message, model=model_id)
            self._publish(
                "memory_critical", usage, message, action="model_unloaded", model_id=model_id
            )
        elif not self._is_exhausted:
            self._is_exhausted = True
            log.error("no model is left to unload", usage=str(usage))

    def _hold(self) -> None:
        """Neither critical nor well, or unknown."""
        self._readings_held += 1
        if self._readings_held >= HOLD_READINGS:
            self._recover()

    def _recover(self) -> None:
        self._has_shrunk = self._is_exhausted = False
        if not self.is_admitting:
            log.info("requests are accepted again")
            self._set_admitting(is_admitting=True)

    def _set_admitting(self, *, is_admitting: bool) -> None:
        self.is_admitting = is_admitting
        self._relief.set_admitting(is_admitting=is_admitting)

    def _publish(self, event: str, usage: Usage, message: str, **fields: str) -> None:
        self._telemetry.publish(
            event,
            vram_used_gb=round(usage.used_bytes / 1e9, 3),
            vram_total_gb=round(usage.total_bytes / 1e9, 3),
            pct=round(usage.percent, 1),
            message=message,
            **fields,
        )
