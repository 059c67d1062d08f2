"""Answers that outlive their connection: performed here, kept here, taken up again from here.

Theory of operation. A resumable answer runs in the keeper's nursery and writes into a log; the
connection that asked for it is only its first reader. When that is cut, the answer goes on, and
whoever shows the id of its last frame reads on after it, until some time after the answer's end.
What all logs hold is bounded: beyond it the ones that ended first go, then those that nobody reads,
and at last what readers have had already. An answer that is not to be resumed runs in its own
request, whose end cancels it.
"""

from math import inf
from typing import Protocol

import structlog
import trio

from lmx.config import Settings
from lmx.errors import InvalidRequest, LmxError, StreamNotFound
from lmx.schema.reply import SSE_COMMENT
from lmx.web.answer_log import SSE_FRAMING, AnswerLog, Framing, LogReader
from lmx.web.answers import StartStream
from lmx.web.barrier import contain
from lmx.web.exchange import Exchange
from lmx.web.pump import Pump


class Perform(Protocol):
    """Gives an answer."""

    async def __call__(self, start: StartStream, *, heartbeat_s: float) -> None:
        """Give it.

        Args:
            start: Begins its stream, once it is sure that there is an answer.
            heartbeat_s: Silence after which a sign of life is due.

        Raises:
            LmxError: It was refused or broke before it began.
        """


log = structlog.get_logger("lmx.web")


class AnswerOwner(Protocol):
    """What can be done about an answer that is under way, by whoever reads it."""

    @property
    def name(self) -> str:
        """What its frames call it."""

    @property
    def is_over(self) -> bool:
        """Whether its last frame was spelled, which is before the log is told."""

    def encode_cancelled(self) -> bytes:
        """Its last frame, if it is cancelled now."""

    def stop_thinking(self) -> None:
        """End its reasoning and go on."""


class KeptAnswer:
    """A resumable answer under way or over.

    Args:
        kept: Its log.
        owner: Who gives it, where readers can do something about it.

    Attributes:
        owner: The same.
        log: Its frames.
        error: Why it never began or broke off, if so.
    """

    def __init__(self, kept: AnswerLog, owner: AnswerOwner | None = None) -> None:
        self.log = kept
        self.owner = owner
        self.error: LmxError | None = None
        self._scope = trio.CancelScope()

    async def perform(self, perform: Perform) -> None:
        """Give the answer into the log, to its end or until it is cancelled."""

        async def give() -> None:
            try:
                # Signs of life are each connection's own affair.
                await perform(self.log.start, heartbeat_s=inf)
            except LmxError as error:
                self.error = error

        def fail(error: Exception) -> None:
            log.error("answer failed", answer=self.log.answer_id, exc_info=error)
            self.error = LmxError("internal error")

        with self._scope:
            await contain(give, fail)
        self.log.finish()

    def cancel(self) -> None:
        """End it now, with a frame that says so, if it has an owner. Idempotent."""
        if self.log.is_over or (self.owner is not None and self.owner.is_over):
            return
        self._scope.cancel()
        if self.owner is not None:
            self.log.feed(self.owner.encode_cancelled())
        self.log.finish()

    async def wait_open(self) -> None:
        """Wait for its first frame.

        Raises:
            LmxError: It was refused or broke before.

        Cancellation:
            Cancels it: nobody knows its id yet.
        """
        try:
            await self.log.opened.wait()
        except trio.Cancelled:
            self.cancel()
            raise
        if self.error is not None:
            raise self.error


class AnswerKeeper:
    """Performs resumable answers and keeps them for a while.

    Args:
        settings: Whether and how long, and when a connection needs a sign of life.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[str, KeptAnswer] = {}  # in order of their beginning
        self._held_bytes = 0
        self._nursery: trio.Nursery | None = None

    @property
    def _limit_bytes(self) -> int:
        return round(self._settings.server.resume_max_mb * 1e6)

    @property
    def held_bytes(self) -> int:
        """What all logs hold."""
        return self._held_bytes

    @property
    def count(self) -> int:
        """Answers that can be taken up."""
        return len(self._kept)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the answers. Never returns."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def wants(self, asked: bool | None) -> bool:  # noqa: FBT001  # a request's field
        """Whether an answer is to be resumable.

        Args:
            asked: What its request says.
        """
        return self._settings.server.resume if asked is None else asked

    async def stream(self, exchange: Exchange, perform: Perform, *, resumable: bool | None) -> None:
        """Answer an exchange with a stream, resumable or not.

        Args:
            exchange: Whose body has been read.
            perform: Gives the answer.
            resumable: What the request says of that.

        Raises:
            LmxError: It was refused or broke before it began.
        """
        if not self.wants(resumable):
            await perform(exchange.start_stream, heartbeat_s=self._settings.server.heartbeat_s)
            return
        kept = self.begin(exchange.request_id, SSE_FRAMING, perform)
        await kept.wait_open()
        await self._read(exchange, kept, kept.log.read_after(0))

    async def take_up(self, exchange: Exchange) -> None:
        """Go on with the answer that an exchange names by the last frame it has.

        Raises:
            InvalidRequest: It names none.
            StreamNotFound: That answer is not kept, or no longer.
        """
        kept, reader = self.find(exchange.last_event_id, SSE_FRAMING)
        await self._read(exchange, kept, reader)

    def begin(
        self,
        answer_id: str,
        framing: Framing,
        perform: Perform,
        *,
        owner: AnswerOwner | None = None,
    ) -> KeptAnswer:
        """Start an answer that outlives whoever asked for it.

        Args:
            answer_id: Begins the ids of its frames.
            framing: Of the transport it is spelled for.
            perform: Gives the answer.
            owner: For whoever takes it up.
        """
        if self._nursery is None:
            raise RuntimeError("the answer keeper is not running")
        kept = KeptAnswer(AnswerLog(answer_id, framing, self._grow), owner)
        self._kept[answer_id] = kept
        self._nursery.start_soon(self._keep, kept, perform)
        return kept

    def find(self, event_id: str, framing: Framing) -> tuple[KeptAnswer, LogReader]:
        """The answer that a frame is of, and a reader of what came after the frame.

        Raises:
            InvalidRequest: That is no frame's id.
            StreamNotFound: The answer is not kept, or it is spelled for another transport.
        """
        answer_id, _, text = event_id.rpartition(":")
        if not answer_id or not (text.isascii() and text.isdecimal()):
            raise InvalidRequest(
                "the id of the last event that was received is needed", param="last_event_id"
            )
        kept = self._kept.get(answer_id)
        number = int(text[:18])
        if kept is None or not kept.log.frame_count >= number:
            raise StreamNotFound(
                f"no answer with the id {answer_id!r} is kept; answers are kept only if asked for, "
                f"and for {self._settings.server.resume_keep_s:g} s after their end"
            )
        if kept.log.framing is not framing:
            raise StreamNotFound(f"this answer goes on over {kept.log.framing.name} only")
        return kept, kept.log.read_after(number)

    async def _read(self, exchange: Exchange, kept: KeptAnswer, reader: LogReader) -> None:
        sink = await exchange.start_stream(b"", kept.log.headers)
        beat_s = self._settings.server.heartbeat_s
        await Pump(reader, sink, heartbeat=SSE_COMMENT, heartbeat_s=beat_s).run()
        if kept.error is not None:
            raise kept.error  # it broke off: nobody is to take it for whole

    async def _keep(self, kept: KeptAnswer, perform: Perform) -> None:
        """Perform an answer, and forget it some time after."""
        try:
            await kept.perform(perform)
            if kept.error is None:
                await trio.sleep(self._settings.server.resume_keep_s)
        finally:
            self._forget(kept)

    def _forget(self, kept: KeptAnswer) -> None:
        """Nobody can take it up any more; who reads it reads to the end."""
        if self._kept.pop(kept.log.answer_id, None) is not None:
            kept.log.trim()

    def _grow(self, count: int) -> None:
        self._held_bytes += count
        if count > 0 and self._held_bytes > self._limit_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """Let go of answers until the rest fits: over first, then unread, then the oldest."""
        ranked = sorted(
            self._kept.values(), key=lambda kept: (not kept.log.is_over, kept.log.has_readers)
        )
        for kept in ranked:
            if self._held_bytes <= self._limit_bytes:
                return
            log.warning("a resumable answer is given up for room", answer=kept.log.answer_id)
            self._forget(kept)
            if not kept.log.has_readers:
                kept.cancel()
