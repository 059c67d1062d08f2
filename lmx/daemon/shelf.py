"""The models on disk, as requests and the admin API see them.

Looking takes up to seconds with many models, so it happens in a thread, and what was found counts
for a little while.
"""

from collections.abc import Sequence
from math import inf

import msgspec
import structlog
import trio

from lmx.catalog.embedded import EMBEDDED
from lmx.catalog.inventory import InventoryRow
from lmx.catalog.names import ANY_MODEL, resolve_name
from lmx.catalog.scan import Inventory
from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.config import Settings
from lmx.protocol.values import Purpose

FRESH_S = 5.0

log = structlog.get_logger("lmx.inventory")


class Shelf:
    """What could be loaded.

    Args:
        settings: Where to look.
        inventory: What looks, if not by the settings.
    """

    def __init__(self, settings: Settings, inventory: Inventory | None = None) -> None:
        self._settings = settings
        self._folders = settings.models.folders
        self._inventory = inventory or Inventory(settings.home, self._folders)
        self._rows: Sequence[InventoryRow] = ()
        self._looked_at_s = -FRESH_S
        self._looking = trio.Lock()
        self._reported: frozenset[str] = frozenset()

    async def rows(self, *, is_fresh: bool = False) -> Sequence[InventoryRow]:
        """Every model on disk, complete or not.

        Args:
            is_fresh: Look again, however short ago the last look was.
        """
        async with self._looking:
            self._follow_settings()
            if is_fresh or trio.current_time() - self._looked_at_s >= FRESH_S:
                found = await trio.to_thread.run_sync(self._inventory.scan)
                self._rows = found.rows
                self._looked_at_s = trio.current_time()
                for problem in found.problems:
                    if problem not in self._reported:
                        log.warning("a folder of models cannot be read", reason=problem)
                self._reported = frozenset(found.problems)
        return self._rows

    def _follow_settings(self) -> None:
        """Look in other folders if they are others by now."""
        if self._folders != self._settings.models.folders:
            self._folders = self._settings.models.folders
            self._inventory = Inventory(self._settings.home, self._folders)
            self._looked_at_s = -inf

    async def find(self, name: str, purpose: Purpose | None = None) -> ModelSpec | None:
        """What to load for a name that a request gave; only what is listed can be meant.

        Args:
            name: As the client spelled it.
            purpose: What it has to answer; `None` for anything.
        """
        if name in ANY_MODEL:
            return None
        answering = {
            row.id: row.purpose
            for row in await self.rows()
            if row.status == "complete" and purpose in {None, row.purpose}
        }
        words = {model.name: (model.word,) for model in EMBEDDED.values()}
        found = resolve_name(name, {model_id: words.get(model_id, ()) for model_id in answering})
        if found is None:
            return None
        spec = parse_spec(found, self._settings.models.backend)
        return msgspec.structs.replace(spec, purpose=answering[found])
