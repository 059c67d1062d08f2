"""From a request to its answer: resolve, admit, send, and be sure it ends exactly once.

``async with dispatch.open(...) as reply`` is the only way to generate. Entering it means that the
worker has started the request, so the status line is decided; every failure before that is raised.
Leaving it, for whatever reason, cancels what still runs and closes the books. It knows nothing of
HTTP and nothing of what the text means.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import trio

from lmx.config import Settings
from lmx.daemon.admission import Admission
from lmx.daemon.books import Books
from lmx.daemon.holds import Hold, Holds
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.origin import Origin, sign
from lmx.daemon.poison import PoisonList, fingerprint
from lmx.daemon.reply import ReplyStream
from lmx.daemon.running import Occupancy, OpenRequest, RunningRequest
from lmx.daemon.tally import RequestTally
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.transcripts import Transcripts
from lmx.errors import (
    DoesNotFit,
    Draining,
    LmxError,
    OutOfMemory,
    QueueFull,
    WorkerBroken,
    WorkerClosed,
    WorkerStalled,
    from_code,
)
from lmx.protocol.messages import (
    Ask,
    Command,
    Inspected,
    Prompt,
    Started,
    StopThinking,
    choice_count,
)
from lmx.protocol.values import Purpose, Usage

ANYWHERE = Origin()
# What the requests of a worker are told that ended by itself.
DEATHS = (WorkerBroken, WorkerStalled, OutOfMemory)
DRAINING = "the server is stopping"
RETRY_AFTER_STOP_S = 5.0
SHORT_OF_MEMORY = "the machine is short of memory; running requests go on, new ones have to wait"
# Of a model that has left to make room; the first words are those that clients know.
UNLOADED_FOR_MEMORY = "No model loaded: {reason}"
RETRY_AFTER_SHORTAGE_S = 5.0


class Reply:
    """An answer under way: the model that gives it and the stream it comes in.

    Attributes:
        model_id: Canonical id, to be reported to the client.
        choices: What the worker says, one stream per choice.
        started: How to read it; the same for every choice.
        tell: Sends the worker a command.
        prompts: What the worker said of each prompt that is answered; usually `started` alone.
    """

    __slots__ = ("choices", "model_id", "prompts", "started", "tell")

    def __init__(
        self,
        model_id: str,
        choices: Sequence[ReplyStream],
        started: Started,
        *,
        tell: Callable[[Command], None],
        prompts: Sequence[Started] = (),
    ) -> None:
        self.prompts = prompts or (started,)
        self.model_id = model_id
        self.choices = choices
        self.started = started
        self.tell = tell

    def stop_thinking(self) -> None:
        """End the reasoning of every choice and go on with the answer; see `StopThinking`."""
        for choice in self.choices:
            self.tell(StopThinking(choice.sequence))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be delivered."""
        return all(choice.is_over for choice in self.choices)

    @property
    def usages(self) -> list[Usage]:
        """Token counts of the choices that have ended."""
        return [choice.end.usage for choice in self.choices if choice.end is not None]


class _Place:
    """One choice's place in a model's admission, from entering to leaving exactly once.

    It is left as soon as the worker is done, so that a client that does not read holds no place.
    """

    def __init__(self, admission: Admission, tally: RequestTally) -> None:
        self._admission: Admission | None = admission
        self._tally = tally
        self._entered_at = trio.current_time()

    def leave(self) -> None:
        """Give the place back, unless that has happened."""
        if self._admission is not None:
            now_s = trio.current_time()
            self._admission.leave(now_s - self._entered_at)
            self._admission = None
            self._tally.ended_s = now_s


class Dispatch:
    """Opens replies and knows all that are open.

    Args:
        loader: Finds models.
        telemetry: Keeps the books.
        settings: Limits.
    """

    def __init__(self, loader: Loader, telemetry: Telemetry, settings: Settings) -> None:
        self._loader = loader
        self._transcripts = Transcripts(lambda: settings.logging.prompts)
        self._books = Books(telemetry)
        self._settings = settings
        self._open: set[ReplyStream] = set()
        self._holds = Holds()
        self._poison = PoisonList()
        self._is_draining = False
        self._is_short_of_memory = False
        self._became_idle = trio.Event()
        self._revoked = trio.Event()

    @property
    def in_flight(self) -> int:
        """Replies open now."""
        return len(self._open)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._is_draining

    @property
    def is_short_of_memory(self) -> bool:
        """Whether new requests are refused until there is memory again."""
        return self._is_short_of_memory

    @property
    def running(self) -> list[RunningRequest]:
        """All requests that have come and not ended, in order of arrival."""
        return self._books.running.read() + self._holds.read()

    @property
    def occupancy(self) -> dict[str, Occupancy]:
        """Admitted requests by model."""
        return self._books.running.occupancy()

    def cancel(self, request_id: str) -> bool:
        """End a request, or all replies that share its id; their client is told why.

        Returns:
            Whether there is one.
        """
        is_held = self._holds.cancel(request_id)
        return self._books.running.cancel(request_id) or is_held

    @contextmanager
    def hold(self, origin: Origin, model_name: str) -> Iterator[Hold]:
        """Begin a request that opens several replies, one after the other, of this origin.

        Args:
            origin: Where it comes from; its id is not that of another held request.
            model_name: As the client spelled it.

        Raises:
            Draining: No new request is taken.
        """
        self._refuse_if_draining(origin)
        try:
            find = partial(self._wait_routable, model_name)
            with self._holds.enter(origin, model_name, find) as hold:
                yield hold
        finally:
            self._check_idle()

    @asynccontextmanager
    async def open(
        self,
        ask: Ask,
        *,
        model_name: str,
        origin: Origin = ANYWHERE,
        purpose: Purpose = "generation",
    ) -> AsyncIterator[Reply]:
        """Start a request and give its answer as it comes.

        Args:
            ask: What is asked for; its sequence number is ignored.
            model_name: As the client spelled it.
            origin: Where it comes from.
            purpose: What kind of model answers that.

        Raises:
            LmxError: The request was refused or broke before it started.

        Cancellation:
            The worker is told before the next step; nothing is left behind.
        """
        with self._books.entry(origin, model_name) as request:
            self._refuse_if_draining(origin)
            model = await request.wait(partial(self._wait_routable, model_name, purpose))
            request.model_id = model.id
            ready = self._require_room(ask, model, origin)
            ready.admission.enter(choice_count(ask))
            tally = self._books.admit(request, model, ready)
            places = [_Place(ready.admission, tally) for _ in range(choice_count(ask))]
            ready.enter()
            try:
                signed = sign(ask, origin.caller)
                started = await self._start(request, signed, places=places, ready=ready)
                yield Reply(model.id, request.choices, started, tell=ready.worker.link.send)
            finally:
                for place in places:
                    place.leave()
                ready.leave()
                self._close(request.choices, ready)
                self._transcripts.end(request)
                self._judge(ask, request.choices, model=model, ready=ready)

    async def inspect(self, prompt: Prompt, *, model_name: str) -> tuple[str, Inspected]:
        """What a prompt is for a model, as text and as token ids.

        Returns:
            The model's canonical id, and both.

        Raises:
            LmxError: There is no such model, or it refuses the prompt.
        """
        self._refuse_if_draining(ANYWHERE)
        model = await self._wait_routable(model_name)
        ready = _require_ready(model)
        ready.enter()
        try:
            return model.id, await ready.worker.link.inspect(prompt)
        finally:
            ready.leave()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._is_draining = True
        self._check_idle()

    async def wait_idle(self) -> None:
        """Wait until no reply is open and no request is held; only after `drain`."""
        await self._became_idle.wait()

    def revoke(self) -> None:
        """End every open reply with an error, so that its client is told why."""
        for stream in list(self._open):
            stream.fail(Draining(DRAINING, retry_after_s=RETRY_AFTER_STOP_S))
        self._holds.fail(Draining(DRAINING, retry_after_s=RETRY_AFTER_STOP_S))
        self._revoked.set()

    async def wait_revoked(self) -> None:
        """Wait until the daemon ends what is still open."""
        await self._revoked.wait()

    def set_admitting(self, *, is_admitting: bool) -> None:
        """Refuse new requests while memory is short, or take them again."""
        self._is_short_of_memory = not is_admitting

    async def _wait_routable(self, name: str, purpose: Purpose = "generation") -> Model:
        """The model that is meant, once it can answer.

        Raises:
            OutOfMemory: It has left because memory is short, or cannot come for that reason.
            LmxError: There is no such model, or it is not ready in time.
        """
        wait_s = self._settings.models.load_wait_s
        try:
            return await self._loader.wait_routable(name, wait_s=wait_s, purpose=purpose)
        except DoesNotFit as error:
            if not self._is_short_of_memory:
                raise
            raise OutOfMemory(UNLOADED_FOR_MEMORY.format(reason=error.message)) from error

    def _refuse_if_short_of_memory(self) -> None:
        if self._is_short_of_memory:
            raise QueueFull(SHORT_OF_MEMORY, retry_after_s=RETRY_AFTER_SHORTAGE_S)

    def _judge(
        self, ask: Ask, choices: Sequence[ReplyStream], *, model: Model, ready: ReadyModel
    ) -> None:
        """Remember a request that was running when its worker died of something it computed."""
        if self._poison and choices and all(choice.end is not None for choice in choices):
            self._poison.absolve(_mark(ask, model))
        ended = ready.worker.ended
        if ended is None or not ended.may_be_a_request:
            return
        if any(isinstance(choice.error, DEATHS) for choice in choices):
            self._poison.blame([_mark(ask, model)], trio.current_time(), death=ended.pid)

    def _refuse_if_draining(self, origin: Origin) -> None:
        if self._is_draining and not self._holds.covers(origin):
            raise Draining(DRAINING, retry_after_s=RETRY_AFTER_STOP_S)

    def _require_room(self, ask: Ask, model: Model, origin: Origin) -> ReadyModel:
        """The worker to be asked, unless the request is to be refused now."""
        self._refuse_if_draining(origin)
        ready = _require_ready(model)
        self._refuse_if_short_of_memory()
        if self._poison:
            self._poison.check(_mark(ask, model), trio.current_time())
        return ready

    async def _start(
        self,
        request: OpenRequest,
        ask: Ask,
        *,
        places: Sequence[_Place],
        ready: ReadyModel,
    ) -> Started:
        choices = ready.worker.link.open_replies(ask)
        request.attach(choices)
        self._transcripts.begin(ask, request)
        for choice, place in zip(choices, places, strict=True):
            choice.on_over = place.leave
        self._open.update(choices)
        started = [await choice.wait_started() for choice in choices]
        self._books.start(request)
        return started[0]

    def _close(self, choices: Sequence[ReplyStream], ready: ReadyModel) -> None:
        """Nobody listens any more. Never waits."""
        self._open.difference_update(choices)
        for choice in choices:
            ready.worker.link.close_reply(choice)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._is_draining and not self._open and not self._holds:
            self._became_idle.set()


def _require_ready(model: Model) -> ReadyModel:
    """Nothing is awaited between finding a model and using it; this guards the invariant."""
    if model.ready is None:
        raise WorkerClosed(f"{model.id} was unloaded this moment")
    return model.ready


def _mark(ask: Ask, model: Model) -> bytes:
    """What a request is remembered by: what ends one model's worker may be fine with another."""
    return model.id.encode() + fingerprint(ask)


def reply_error(stream: ReplyStream) -> LmxError | None:
    """Why a reply ended badly, if it did: the daemon's reason or the worker's."""
    if stream.error is not None:
        return stream.error
    end = stream.end
    if end is not None and end.reason == "error":
        return from_code(end.code or LmxError.code, end.message or "the generation failed")
    return None
