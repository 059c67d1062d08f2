"""The HTTP error handler: one request or one connection may fail, the daemon may not.

It is the only blind `except` of the web layer, used per request (the client gets a 500 in the
envelope) and per connection (Hypercorn's parsers raise on malformed input, see docs/adr/0004).
Cancellation, KeyboardInterrupt and SystemExit always pass.
"""

from collections.abc import Awaitable, Callable

import trio


async def contain(
    work: Callable[[], Awaitable[None]], on_failure: Callable[[Exception], None]
) -> None:
    """Run `work`; hand what it raises to `on_failure` instead of the caller.

    Raises:
        BaseException: Whatever is no `Exception`, cancellation included.
    """
    try:
        await work()
    except BaseExceptionGroup as group:
        cancelled, rest = group.split(trio.Cancelled)
        if rest is not None:
            failures, fatal = rest.split(Exception)
            if fatal is not None:
                raise
            if isinstance(failures, ExceptionGroup):
                on_failure(failures)
        if cancelled is not None:
            raise cancelled from None
    except Exception as error:  # noqa: BLE001  # the HTTP error handler, design rule
        on_failure(error)
