"""Waiting for whichever comes first. Knows nothing of models or workers."""

from collections.abc import Awaitable, Callable

import trio


async def wait_first(*waits: Callable[[], Awaitable[object]]) -> int:
    """Run all, cancel the others when one returns, and say which it was."""
    first: list[int] = []
    async with trio.open_nursery() as nursery:

        async def run(index: int, wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            first.append(index)
            nursery.cancel_scope.cancel()

        for index, wait in enumerate(waits):
            nursery.start_soon(run, index, wait)
    return first[0]
