"""When a worker counts as hung: work in flight, and nothing of it delivered for too long.

Only frames about requests and pieces of prefill are signs of life; a thread that merely answers is
none. A worker that waits for the device because another one holds it is not hung; one that does not
hand the device over is, even without work of its own, because everybody else waits for it.
"""

from collections.abc import Callable

import trio

from lmx.daemon.link import WorkerLink

# How often the signs are looked at, as a share of the limit, and at least once a second.
LOOKS_PER_LIMIT = 20
LONGEST_LOOK_S = 1.0


async def wait_stalled(
    link: WorkerLink,
    limit_s: float,
    *,
    is_excused: Callable[[], bool],
    owes_since_s: Callable[[], float | None] = lambda: None,
) -> None:
    """Return when the worker behind `link` has work and gave no sign of life for `limit_s`.

    Args:
        link: To the worker.
        limit_s: Seconds.
        is_excused: Whether it cannot be expected to work just now.
        owes_since_s: Since when others wait for it to hand over the device, on Trio's clock.
    """
    seen = link.sign_count
    since_s = trio.current_time()
    while True:
        await trio.sleep(min(LONGEST_LOOK_S, limit_s / LOOKS_PER_LIMIT))
        now_s, owes_s = trio.current_time(), owes_since_s()
        if owes_s is not None and now_s - owes_s >= limit_s:
            return
        if link.sign_count != seen or not link.has_work or is_excused():
            seen = link.sign_count
            since_s = now_s
        elif now_s - since_s >= limit_s:
            return
