"""One request's answer as it comes out of a worker: a mailbox that never blocks the pump.

Theory of operation. The link's reader calls `deliver` for each event, in order, and never waits.
Adjacent text merges until somebody takes it, so a slow client costs the length of its answer and
nothing else. A consumer either waits (`wait_change`) or registers `on_change` to be called from the
reader itself, which is the fast lane of token streams. The event grammar is checked here:
``Rejected`` or ``Started Delta* Finished``; anything else condemns the worker.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from lmx.errors import FrameError, LmxError, from_code
from lmx.protocol.messages import Delta, Finished, Rejected, RequestEvent, Rows, Started
from lmx.protocol.values import TokenLogprob

if TYPE_CHECKING:
    from lmx.daemon.tally import ChoiceTally

Listener = Callable[[], None]

# Pieces of text kept apart before they are joined: a Python string costs far more than a token.
MERGE_AFTER = 256


class ReplyStream:
    """Everything known about one answer so far.

    Attributes:
        sequence: The choice's number on the pipe.
        started: What the worker said when it began, once it did.
        prompt_logprobs: The prompt's tokens with their log-probabilities, if asked for.
        end: The terminal event, once it came.
        error: Why there will be no terminal event from the worker, if so.
        on_change: Called after each delivery, synchronously; must not raise.
        on_over: Called once when the answer is over, whether or not a client has read it.
        rows: Numbers so far, of a request for numbers.
        tally: Counts and times what is delivered, if anybody wants to know.
    """

    __slots__ = (
        "_changed",
        "_logprobs",
        "_texts",
        "end",
        "error",
        "on_change",
        "on_over",
        "prompt_logprobs",
        "rows",
        "sequence",
        "started",
        "tally",
    )

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.started: Started | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        self.end: Finished | None = None
        self.error: LmxError | None = None
        self.on_change: Listener | None = None
        self.on_over: Listener | None = None
        self.tally: ChoiceTally | None = None
        self.rows: list[Rows] = []
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._changed = trio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be delivered."""
        return self.end is not None or self.error is not None

    def deliver(self, event: RequestEvent) -> None:
        """Take the next event from the worker.

        Raises:
            FrameError: The event is not allowed here; nothing changed.
        """
        if self.error is not None:
            return  # ended from the daemon's side; the worker has not heard of it yet
        if isinstance(event, Delta):
            self._require(is_started=True)
            self._texts.append(event.text)
            if self.tally is not None:
                self.tally.take(event)
            if event.logprobs or event.prompt_logprobs:
                self._logprobs += event.logprobs
                self.prompt_logprobs += event.prompt_logprobs
            if len(self._texts) > MERGE_AFTER:
                self._texts[:] = ["".join(self._texts)]
        elif isinstance(event, Rows):
            self._require(is_started=True)
            self.rows.append(event)
        elif isinstance(event, Finished):
            self._require(is_started=True)
            self.end = event
        elif isinstance(event, Started):
            self._require(is_started=False)
            self.started = event
        elif isinstance(event, Rejected):
            self._require(is_started=False)
            self.error = from_code(event.code, event.message, param=event.param)
        self._wake()

    def fail(self, error: LmxError) -> None:
        """End from the daemon's side: the worker broke, or the daemon stops. Idempotent."""
        if not self.is_over:
            self.error = error
            self._wake()

    def take_text(self) -> str:
        """All text that came since the last call."""
        texts = self._texts
        text = texts[0] if len(texts) == 1 else "".join(texts)
        texts.clear()
        return text

    def take_logprobs(self) -> list[TokenLogprob]:
        """Log-probabilities of all tokens that came since the last call."""
        taken, self._logprobs = self._logprobs, []
        return taken

    async def wait_started(self) -> Started:
        """Wait for the first event.

        Raises:
            LmxError: The worker refused the request or broke before starting it.
        """
        while self.started is None:
            if self.error is not None:
                raise self.error
            await self.wait_change()
        return self.started

    async def wait_change(self) -> None:
        """Wait for the next delivery."""
        self._changed = trio.Event()
        await self._changed.wait()

    def _require(self, *, is_started: bool) -> None:
        if self.is_over or (self.started is not None) is not is_started:
            raise FrameError(f"event out of order for sequence {self.sequence}")

    def _wake(self) -> None:
        on_over = self.on_over
        if self.is_over and on_over is not None:
            self.on_over = None
            on_over()
        if self.on_change is not None:
            self.on_change()
        self._changed.set()
