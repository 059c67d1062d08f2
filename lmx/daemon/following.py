"""What has to be told of new settings, because it keeps what it made of the old ones.

Most parts keep the settings themselves and ask them each time. These are the loader's: the memory
that models share, who is pinned, and how many may wait at a model.
"""

import msgspec
import structlog

from lmx.config import MemorySettings, Settings
from lmx.daemon.guardian import budget_bytes
from lmx.daemon.loader import Loader

log = structlog.get_logger("lmx.config")


class Follower:
    """Tells the loader's parts.

    Args:
        settings: The settings in force.
        loader: What is told.
    """

    def __init__(self, settings: Settings, loader: Loader) -> None:
        self._settings = settings
        self._loader = loader
        self._pinned = frozenset(settings.models.pinned)
        self._levels = _levels(settings.memory)

    def follow(self) -> None:
        """Compare with what was said before. Never blocks."""
        limits = self._settings.models
        self._loader.room.min_residency_s = limits.min_residency_s
        for model in self._loader.models.values():
            if model.ready is not None:
                model.ready.admission.set_max_waiting(limits.max_waiting)
        self._pin(frozenset(limits.pinned))
        self._set_budget()

    def _pin(self, pinned: frozenset[str]) -> None:
        """Pin and release the models whose names came or went; others stay as they are."""
        for model_id in self._pinned ^ pinned:
            model = self._loader.models.get(model_id)
            if model is not None:
                model.options = msgspec.structs.replace(model.options, is_pinned=model_id in pinned)
        self._pinned = pinned

    def _set_budget(self) -> None:
        memory, reading = self._settings.memory, self._loader.reading
        if _levels(memory) == self._levels or reading is None:
            return
        self._levels = _levels(memory)
        new_bytes = budget_bytes(memory, reading)
        overdrawn = self._loader.room.ledger.set_budget(new_bytes)
        self._loader.estimates.set_budget(new_bytes)
        self._loader.room.take_back(0)
        log.info("memory budget changed", budget_bytes=new_bytes, overdrawn_bytes=overdrawn)


def _levels(memory: MemorySettings) -> tuple[float | None, float]:
    """What a budget follows from, beside the machine."""
    return memory.budget_gb, memory.critical_percent
