"""Whom the daemon tells that it is here: the next daemon of its home, and who started it.

The composition root says when it answers and when it stops; who hears of that is decided here.
"""

from collections.abc import Sequence

import trio

from lmx.daemon.instance import Instance
from lmx.daemon.supervision import Notifier


class Presence:
    """A daemon's signs of life to the outside.

    Args:
        instance: Its place among the daemons of its home.
        notifier: The service manager's ear.
    """

    def __init__(self, instance: Instance, notifier: Notifier) -> None:
        self._instance = instance
        self._notifier = notifier

    async def tell_ready(self, urls: Sequence[str]) -> None:
        """The daemon answers at these addresses."""
        await trio.to_thread.run_sync(self._instance.announce, urls[0])
        self._notifier.tell_ready(urls[0])

    async def tell_stopping(self) -> None:
        """The daemon drains, and will be gone soon."""
        self._notifier.tell_stopping()
        await trio.to_thread.run_sync(self._instance.announce_stop)

    async def run(self) -> None:
        """Give signs of life as long as tasks run; returns if nobody wants any."""
        await self._notifier.run()
