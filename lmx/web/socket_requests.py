"""One chat request on a WebSocket, from its message to its one terminal message."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
import trio

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.origin import Caller, Origin
from lmx.daemon.presets import Presets
from lmx.errors import LmxError, RequestCancelled
from lmx.schema.chat_frames import ACCEPTED, KEEPALIVE, MessageEncoder, parse_chat_message
from lmx.schema.problems import Headers
from lmx.schema.reply import ReplyHead
from lmx.skills.service import Skills
from lmx.web.answer_log import MESSAGE_FRAMING, LogReader
from lmx.web.answers import StartStream
from lmx.web.barrier import contain
from lmx.web.chat_stream import ChatJob, ChatStream, plan_chat
from lmx.web.exchange import PARSE_IN_THREAD_BYTES
from lmx.web.pump import Pump
from lmx.web.resume import AnswerKeeper, AnswerOwner, KeptAnswer
from lmx.web.sink import GONE, Sink
from lmx.web.skill_stream import SkillStream, make_loop
from lmx.web.socket_frames import SocketMessages

log = structlog.get_logger("lmx.web")


class SocketServices(NamedTuple):
    """What requests on sockets work with."""

    dispatch: Dispatch
    settings: Settings
    keeper: AnswerKeeper
    presets: Presets
    skills: Skills


class Handshake(NamedTuple):
    """What a socket's handshake says of all its requests.

    Attributes:
        client: What the client calls itself, or its address.
        caller: Whose turns its requests take.
        priority: Of requests that do not say.
    """

    client: str
    caller: Caller
    priority: int

    def origin(self, request_id: str, route: str) -> Origin:
        """Where a request comes from that arrives now."""
        return Origin(request_id, self.client, route, trio.current_time(), self.caller)


class SocketAnswer:
    """A chat answer spelled as messages, to be performed once.

    Args:
        name: What its messages call it.
        job: What to generate.
        origin: Where the request comes from.
        spelling: Its client's.
        services: What it works with.

    Raises:
        SkillNotFound: It names a skill that there is not.
        InvalidRequest: What it says of skills is contradictory.
    """

    def __init__(
        self,
        name: str,
        job: ChatJob,
        origin: Origin,
        *,
        spelling: type[MessageEncoder],
        services: SocketServices,
    ) -> None:
        self.name = name
        self._job = job
        self._spelling = spelling
        self._encoder = self._make_encoder(
            ReplyHead(id="", created=0, model="", system_fingerprint="")
        )
        self._stream: ChatStream | SkillStream
        if job.request.asked_skills:
            settings, dispatch = services.settings.skills, services.dispatch
            loop = make_loop(job, services.skills, settings, dispatch=dispatch, origin=origin)
            self._stream = SkillStream(loop, origin, make_encoder=self._make_encoder)
        else:
            self._stream = ChatStream(
                services.dispatch, job, origin, make_encoder=self._make_encoder
            )

    async def perform(self, start: StartStream, *, heartbeat_s: float) -> None:
        """See `ChatStream.perform`."""
        await self._stream.perform(start, heartbeat_s=heartbeat_s)

    @property
    def is_over(self) -> bool:
        """Whether its terminal message was spelled."""
        return self._encoder.is_over

    def encode_cancelled(self) -> bytes:
        """Its terminal message, if it is cancelled now."""
        return self._encoder.cancelled(self._stream.usage)

    def stop_thinking(self) -> None:
        """End the reasoning, if the model is at it or going to be."""
        self._stream.stop_thinking()

    def _make_encoder(self, head: ReplyHead) -> MessageEncoder:
        count = len(self._job.generate.samplings)
        self._encoder = self._spelling(self.name, head, marks=self._job.marks, choice_count=count)
        return self._encoder


class SocketRequest:
    """A request on one socket, and the sink of its answer.

    Nothing is sent after its terminal message, whatever still arrives for it.

    Args:
        name: What its messages call it.
        origin: Where it comes from.
        socket: Where its messages go.
        default_priority: What counts where its message does not say.
        spelling: Its client's.
        services: What it works with.
    """

    def __init__(
        self,
        name: str,
        origin: Origin,
        socket: SocketMessages,
        *,
        default_priority: int,
        spelling: type[MessageEncoder],
        services: SocketServices,
    ) -> None:
        self.name = name
        self._origin = origin
        self._default_priority = default_priority
        self._socket = socket
        self._spelling = spelling
        self._services = services
        self._scope = trio.CancelScope()
        self._waiting = trio.CancelScope()  # around signs of life before the answer begins
        self._answer: SocketAnswer | None = None
        self._kept: KeptAnswer | None = None
        self._reader: LogReader | None = None
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether its terminal message was sent, which may be before its task knows."""
        if self._reader is not None and not self._reader.has_all:
            return False
        owner = self._owner
        return self._is_over or (owner is not None and owner.is_over)

    @property
    def is_blocked(self) -> bool:
        """Whether bytes wait for the client."""
        return self._socket.is_blocked

    def feed(self, data: bytes) -> None:
        """Send messages, unless the last one was sent."""
        if not self._is_over:
            self._socket.feed(data)

    async def flush(self) -> None:
        """Send what waits."""
        await self._socket.flush()

    async def answer(self, data: bytes) -> None:
        """Parse a message and answer it. Every end but that of the socket is told.

        Raises:
            trio.BrokenResourceError: The client is gone.
            trio.ClosedResourceError: The connection was closed meanwhile.
        """
        await self._run(partial(self._give, data))

    async def take_up(self, kept: KeptAnswer, reader: LogReader) -> None:
        """Go on with an answer that began on another socket; raises as `answer`."""
        self._kept = kept
        await self._run(partial(self._read, kept, reader))

    def cancel(self) -> None:
        """End it; its last message says so. Without effect once it is over."""
        if self._kept is not None:
            self._kept.cancel()
        elif not self.is_over:
            self._end(self._encode_cancelled())
            self._scope.cancel()

    def stop_thinking(self) -> None:
        """End the reasoning and go on with the answer."""
        if self._owner is not None:
            self._owner.stop_thinking()

    @property
    def _owner(self) -> AnswerOwner | None:
        return self._answer if self._kept is None else self._kept.owner

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        def fail(error: Exception) -> None:
            log.error("request failed", request_id=self._origin.request_id, exc_info=error)
            self._end(self._spelling.spell_error(LmxError("internal error"), self.name))

        lost: list[Exception] = []
        with self._scope:
            await contain(partial(self._tell_errors, work, lost), fail)
        self._is_over = True
        if lost:
            raise lost[0]

    async def _tell_errors(
        self, work: Callable[[], Awaitable[None]], lost: list[Exception]
    ) -> None:
        try:
            await work()
        except LmxError as error:
            self._end(self._spelling.spell_error(error, self.name))
        except GONE as error:
            lost.append(error)

    async def _give(self, data: bytes) -> None:
        job = await self._parse(data)
        self.feed(self._spelling.spell_note(ACCEPTED, self.name))
        answer = self._answer = SocketAnswer(
            self.name,
            job,
            self._origin,
            spelling=self._spelling,
            services=self._services,
        )
        if self._services.keeper.wants(job.request.resumable):
            self._kept = self._services.keeper.begin(
                self._origin.request_id, MESSAGE_FRAMING, answer.perform, owner=answer
            )
            await self._beat_until(self._kept.wait_open)
            await self._read(self._kept, self._kept.log.read_after(0))
        else:
            heartbeat_s = self._services.settings.server.heartbeat_s
            await self._beat_until(partial(answer.perform, self._start, heartbeat_s=heartbeat_s))

    async def _parse(self, data: bytes) -> ChatJob:
        parse = partial(_parse_job, data, self._services, self._default_priority)
        if len(data) > PARSE_IN_THREAD_BYTES:
            return await trio.to_thread.run_sync(parse)
        return parse()

    async def _read(self, kept: KeptAnswer, reader: LogReader) -> None:
        self._reader = reader
        beat = self._spelling.spell_note(KEEPALIVE, self.name)
        beat_s = self._services.settings.server.heartbeat_s
        await Pump(reader, self, heartbeat=beat, heartbeat_s=beat_s).run()
        if kept.error is not None:
            raise kept.error

    async def _start(self, first: bytes, headers: Headers = ()) -> Sink:
        """See `lmx.web.answers.StartStream`; messages have no headers."""
        await trio.lowlevel.checkpoint()
        self._waiting.cancel()
        self.feed(first)
        return self

    async def _beat_until(self, work: Callable[[], Awaitable[None]]) -> None:
        """Send signs of life beside `work` until its answer begins."""
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                await work()
            except (LmxError, *GONE) as error:
                errors.append(error)  # bare, not in a group of the nursery's
            self._waiting.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with self._waiting:
                while True:
                    await trio.sleep(self._services.settings.server.heartbeat_s)
                    if not self.is_blocked:
                        self.feed(self._spelling.spell_note(KEEPALIVE, self.name))
        if errors:
            raise errors[0]

    def _encode_cancelled(self) -> bytes:
        if self._answer is not None:
            return self._answer.encode_cancelled()
        return self._spelling.spell_error(RequestCancelled("the request was cancelled"), self.name)

    def _end(self, last: bytes) -> None:
        """Send the terminal message."""
        self.feed(last)
        self._is_over = True


def _parse_job(data: bytes, services: SocketServices, default_priority: int) -> ChatJob:
    request = services.presets.fill(parse_chat_message(data))
    job = plan_chat(request, services.settings.models, default_priority)
    return job._replace(generate=msgspec.structs.replace(job.generate, may_stop_thinking=True))
