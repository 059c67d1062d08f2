"""Keeps the journal of what is loaded, and loads it again after the daemon was killed.

A sibling of the root nursery that nothing depends on: a disk that fails is logged once.
"""

import time
from functools import partial

import structlog
import trio

from lmx.config import Settings
from lmx.daemon.journal import Entry, Journal, begin, read_journal, with_models, write_journal
from lmx.daemon.loader import Loader

LOOK_S = 1.0

log = structlog.get_logger("lmx.journal")


class Restorer:
    """The journal's keeper.

    Args:
        loader: Whose models.
        settings: Where the journal is, and whether to restore.
    """

    def __init__(self, loader: Loader, settings: Settings) -> None:
        self._loader = loader
        self._settings = settings
        self._journal = Journal()
        self._can_write = True
        self._is_begun = False
        self._is_closed = False
        self._writing = trio.Lock()

    async def run(self) -> None:
        """Restore once, then note every change."""
        if not self._is_begun:
            await self._begin()
        while not self._is_closed:
            entries = self._wanted()
            if entries != list(self._journal.models) or not self._can_write:
                await self._write(with_models(self._journal, entries))
            await trio.sleep(LOOK_S)

    async def close(self) -> None:
        """The daemon stops as it was told to: nothing is to be restored."""
        self._is_closed = True
        await self._write(Journal(is_clean=True))

    async def _begin(self) -> None:
        home = self._settings.home
        previous = await trio.to_thread.run_sync(read_journal, home)
        if self._is_closed:
            return
        journal, entries, remark = begin(previous, time.time())
        if remark:
            log.warning(remark)
        if self._settings.models.restore:
            for entry in entries:
                self._loader.load(entry.spec, entry.options)
        self._is_begun = True
        await self._write(with_models(journal, self._wanted()))

    def _wanted(self) -> list[Entry]:
        return [
            Entry(model.spec, model.options)
            for model in self._loader.models.values()
            if model.is_wanted
        ]

    async def _write(self, journal: Journal) -> None:
        self._journal = journal
        write = partial(write_journal, self._settings.home, journal)
        try:
            async with self._writing:
                await trio.to_thread.run_sync(write)
        except OSError as error:
            if self._can_write:
                log.warning("the loaded set cannot be noted", reason=str(error))
            self._can_write = False
        else:
            self._can_write = True
