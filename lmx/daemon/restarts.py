"""Restarting: what a failed task may cost is a pause, never the daemon.

`keep_running` is the one blind `except` of the daemon layer. It wraps the supervisors of models and
the non-critical siblings of the root nursery; each failure is logged with its traceback and
followed by a growing pause, so that a fault that repeats does not spin.
"""

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

log = structlog.get_logger("lmx.restarts")

FIRST_DELAY_S = 0.5
DELAY_LIMIT_S = 30.0


def restart_delay_s(failures: int, *, first_s: float, limit_s: float) -> float:
    """Pause before attempt `failures + 1`: doubling, capped, spread by a fifth either way."""
    delay = min(limit_s, first_s * 2.0 ** min(failures - 1, 30))
    return delay * random.uniform(0.8, 1.2)  # noqa: S311  # jitter needs no cryptography


async def keep_running(task: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Run `task`, again after every failure, until it returns."""
    failures = 0
    while True:
        try:
            await task()
        except* Exception:  # the restart wrapper, design rule
            failures += 1
            log.exception("task failed", task=name, failures=failures)
        else:
            return
        await trio.sleep(restart_delay_s(failures, first_s=FIRST_DELAY_S, limit_s=DELAY_LIMIT_S))
