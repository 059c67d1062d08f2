"""From a request to its answer: resolve, admit, send, and be sure it ends exactly once.

``async with dispatch.open(...) as reply`` is the only way to generate. Entering it means that the
worker has started the request, so the status line is decided; every failure before that is raised.
Leaving it, for whatever reason, cancels what still runs and closes the books. It knows nothing of
HTTP and nothing of what the text means.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from lmx.config import ModelSettings
from lmx.daemon.admission import Admission
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.reply import ReplyStream
from lmx.daemon.telemetry import Telemetry
from lmx.errors import Draining, LmxError, WorkerClosed, from_code
from lmx.protocol.messages import Generate

log = structlog.get_logger("lmx.requests")

DRAINING = "the server is stopping"
RETRY_AFTER_STOP_S = 5.0


class Reply:
    """An answer under way: the model that gives it and the stream it comes in.

    Attributes:
        model_id: Canonical id, to be reported to the client.
        stream: What the worker says.
    """

    __slots__ = ("model_id", "stream")

    def __init__(self, model_id: str, stream: ReplyStream) -> None:
        self.model_id = model_id
        self.stream = stream


class _Place:
    """One request's place in a model's admission, from entering to leaving exactly once.

    It is left as soon as the worker is done, so that a client that does not read holds no place.

    Raises:
        QueueFull: There is no place.
    """

    def __init__(self, admission: Admission) -> None:
        admission.enter()
        self._admission: Admission | None = admission
        self._entered_at = trio.current_time()

    def leave(self) -> None:
        """Give the place back, unless that has happened."""
        if self._admission is not None:
            self._admission.leave(trio.current_time() - self._entered_at)
            self._admission = None


class Dispatch:
    """Opens replies and knows all that are open.

    Args:
        loader: Finds models.
        telemetry: Keeps the books.
        settings: Limits.
    """

    def __init__(self, loader: Loader, telemetry: Telemetry, settings: ModelSettings) -> None:
        self._loader = loader
        self._telemetry = telemetry
        self._settings = settings
        self._open: set[ReplyStream] = set()
        self._is_draining = False
        self._became_idle = trio.Event()

    @property
    def in_flight(self) -> int:
        """Replies open now."""
        return len(self._open)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._is_draining

    @asynccontextmanager
    async def open(self, generate: Generate, *, model_name: str) -> AsyncIterator[Reply]:
        """Start a request and give its answer as it comes.

        Args:
            generate: What to generate; its sequence number is ignored.
            model_name: As the client spelled it.

        Raises:
            LmxError: The request was refused or broke before it started.

        Cancellation:
            The worker is told before the next step; nothing is left behind.
        """
        self._refuse_if_draining()
        model = await self._loader.wait_routable(model_name, wait_s=self._settings.load_wait_s)
        self._refuse_if_draining()
        ready = _require_ready(model)
        place = _Place(ready.admission)
        self._telemetry.admitted += 1
        stream: ReplyStream | None = None
        try:
            stream = ready.worker.link.open_reply(generate)
            stream.on_over = place.leave
            self._open.add(stream)
            await stream.wait_started()
            yield Reply(model.id, stream)
        finally:
            place.leave()
            self._settle(stream, ready, model.id)

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._is_draining = True
        self._check_idle()

    async def wait_idle(self) -> None:
        """Wait until no reply is open; only after `drain`."""
        await self._became_idle.wait()

    def revoke(self) -> None:
        """End every open reply with an error, so that its client is told why."""
        for stream in list(self._open):
            stream.fail(Draining(DRAINING, retry_after_s=RETRY_AFTER_STOP_S))

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise Draining(DRAINING, retry_after_s=RETRY_AFTER_STOP_S)

    def _settle(self, stream: ReplyStream | None, ready: ReadyModel, model_id: str) -> None:
        """Close the books on one request. Never waits."""
        if stream is None:
            self._telemetry.failed += 1
            return
        self._open.discard(stream)
        end = stream.end
        ready.worker.link.close_reply(stream)
        if end is None and stream.error is None:
            self._telemetry.cancelled += 1
        elif end is None or end.reason == "error":
            self._telemetry.failed += 1
        elif end.reason == "cancelled":
            self._telemetry.cancelled += 1
        else:
            self._telemetry.completed += 1
        if end is not None:
            usage = end.usage
            self._telemetry.count_tokens(
                prompt=usage.prompt_tokens, completion=usage.completion_tokens
            )
            log.info(
                "request ended",
                model=model_id,
                reason=end.reason,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                decode_s=round(end.timings.decode_s, 3),
            )
        self._check_idle()

    def _check_idle(self) -> None:
        if self._is_draining and not self._open:
            self._became_idle.set()


def _require_ready(model: Model) -> ReadyModel:
    """Nothing is awaited between finding a model and using it; this guards the invariant."""
    if model.ready is None:
        raise WorkerClosed(f"{model.id} was unloaded this moment")
    return model.ready


def reply_error(stream: ReplyStream) -> LmxError | None:
    """Why a reply ended badly, if it did: the daemon's reason or the worker's."""
    if stream.error is not None:
        return stream.error
    end = stream.end
    if end is not None and end.reason == "error":
        return from_code(end.code or LmxError.code, end.message or "the generation failed")
    return None
