"""The requests between entering and leaving the dispatcher: what each is doing, and how to end one.

A request is known from the moment it asks for a model, so that one which waits for a load can be
seen and cancelled, too. Ending one never reaches into its task while that uses a worker: a waiting
request is cancelled in its wait alone, and an open one is told by its own streams.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import count
from typing import Literal, NamedTuple, TypeVar

import trio
from msgspec import Struct

from lmx.daemon.measures import ModelMeasures
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.origin import Origin
from lmx.daemon.reply import ReplyStream
from lmx.daemon.tally import ChoiceTally, RequestTally
from lmx.errors import LmxError, RequestCancelled

RequestState = Literal["waiting", "prefill", "decoding", "skills"]
# What is kept of a model's name as a client spelled it, in characters.
NAME_LIMIT = 256
CANCELLED = "the request was cancelled by an administrator"

T = TypeVar("T")


class RunningRequest(Struct, frozen=True, kw_only=True):
    """A reading of one request.

    Attributes:
        request_id: Not unique: a completion of several prompts is as many requests.
        model_id: Canonical, once it is known; before that as the client spelled it.
        client: Who sent it.
        route: The path it came by.
        state: It waits for a model or a slot, its prompt is processed, it has said something, or it
            waits for skills that its answer has called.
        received_at: Epoch seconds.
        age_s: Since then.
        prompt_tokens: 0 until the worker has counted them.
        completion_tokens: Delivered so far, of all choices.
        tokens_per_second: Since the first text; 0 before the second.
    """

    request_id: str
    model_id: str
    client: str
    route: str
    state: RequestState
    received_at: float
    age_s: float
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float


class Occupancy(NamedTuple):
    """How many requests of a model have a slot, and how many wait for one."""

    running: int
    waiting: int


class OpenRequest:
    """One request on its way through the dispatcher.

    Attributes:
        number: Unique in this daemon, and rising.
        origin: Where it comes from.
        model_id: Canonical, once it is known; before that as the client spelled it.
        received_s: When it came, on Trio's clock.
        received_at: The same in epoch seconds.
        model: Which answers, once it is admitted.
        ready: Whose worker it uses, once it is admitted.
        tally: What it has delivered, once it is admitted.
        choices: Its streams, once they are open.
        error: Why it was refused, if it was.
        is_cancelled: An administrator ended it.
    """

    def __init__(self, number: int, origin: Origin, model_name: str) -> None:
        now_s = trio.current_time()
        self.number = number
        self.origin = origin
        self.model_id = model_name[:NAME_LIMIT]
        self.received_s = now_s if origin.received_s is None else origin.received_s
        self.received_at = time.time() - (now_s - self.received_s)
        self.model: Model | None = None
        self.ready: ReadyModel | None = None
        self.tally: RequestTally | None = None
        self.choices: Sequence[ReplyStream] = ()
        self.error: LmxError | None = None
        self.is_cancelled = False
        self._wait = trio.CancelScope()

    async def wait(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait for something, once, in a way that `cancel` ends.

        Raises:
            RequestCancelled: It was.
        """
        with self._wait:
            found = await wait()
        if self.is_cancelled:
            raise RequestCancelled(CANCELLED)
        return found

    def cancel(self) -> None:
        """End it: its client is told why. Idempotent."""
        self.is_cancelled = True
        self._wait.cancel()
        for choice in self.choices:
            choice.fail(RequestCancelled(CANCELLED))

    def admit(self, model: Model, ready: ReadyModel, measures: ModelMeasures) -> RequestTally:
        """It is about to use a worker; from now on what it delivers is counted."""
        self.model, self.ready = model, ready
        self.tally = RequestTally(measures, self.received_s, trio.current_time)
        self.tally.request_id = self.origin.request_id
        return self.tally

    def attach(self, choices: Sequence[ReplyStream]) -> None:
        """Its streams are open."""
        self.choices = choices
        for choice in choices:
            choice.tally = None if self.tally is None else ChoiceTally(self.tally)

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt; 0 until the worker has counted them."""
        started = self.choices[0].started if self.choices else None
        return 0 if started is None else started.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Delivered so far; once a choice has ended, with those that left no text."""
        return sum(_token_count(choice) for choice in self.choices)

    @property
    def tokens_per_second(self) -> float:
        """Of all choices together, since their first texts."""
        return sum(c.tally.tokens_per_second for c in self.choices if c.tally is not None)

    @property
    def has_spoken(self) -> bool:
        """Whether any text has come."""
        return self.tally is not None and self.tally.first_text_s is not None

    @property
    def open_count(self) -> int:
        """Choices for which the worker has not finished."""
        return sum(not choice.is_over for choice in self.choices)


class RunningRequests:
    """All requests under way, in order of arrival."""

    def __init__(self) -> None:
        self._open: dict[int, OpenRequest] = {}
        self._numbers = count(1)

    def enter(self, origin: Origin, model_name: str) -> OpenRequest:
        """A request has come."""
        request = OpenRequest(next(self._numbers), origin, model_name)
        self._open[request.number] = request
        return request

    def leave(self, request: OpenRequest) -> None:
        """It has ended."""
        self._open.pop(request.number, None)

    def cancel(self, request_id: str) -> bool:
        """End all requests of this id; says whether there was any."""
        found = [one for one in self._open.values() if one.origin.request_id == request_id]
        for request in found:
            request.cancel()
        return bool(found)

    def occupancy(self) -> dict[str, Occupancy]:
        """Admitted requests by model."""
        waiting = find_waiting(self._open.values())
        found: dict[str, Occupancy] = {}
        for request in self._open.values():
            if request.model is not None:
                before = found.get(request.model_id, Occupancy(0, 0))
                is_waiting = request.number in waiting
                found[request.model_id] = Occupancy(
                    before.running + (not is_waiting), before.waiting + is_waiting
                )
        return found

    def read(self) -> list[RunningRequest]:
        """What each is doing now."""
        now_s = trio.current_time()
        waiting = find_waiting(self._open.values())
        return [
            RunningRequest(
                request_id=request.origin.request_id,
                model_id=request.model_id,
                client=request.origin.client,
                route=request.origin.route,
                state=_state_of(request, is_waiting=request.number in waiting),
                received_at=round(request.received_at, 3),
                age_s=round(now_s - request.received_s, 3),
                prompt_tokens=request.prompt_tokens,
                completion_tokens=request.completion_tokens,
                tokens_per_second=round(request.tokens_per_second, 2),
            )
            for request in self._open.values()
        ]


def find_waiting(requests: Iterable[OpenRequest]) -> set[int]:
    """The numbers of those that wait for a model or for a slot.

    A worker does not say who has a slot, but it gives them out in order, and who has spoken has
    one; so whoever stands behind as many open choices as there are slots has none.
    """
    waiting: set[int] = set()
    free: dict[int, int] = {}  # by the identity of the worker's admission
    for request in sorted(requests, key=lambda one: (not one.has_spoken, one.number)):
        if request.ready is None or not any(choice.started for choice in request.choices):
            waiting.add(request.number)
            continue
        slots = free.setdefault(id(request.ready), request.ready.loaded.info.max_sequences)
        if not request.has_spoken and request.open_count > slots:
            waiting.add(request.number)
        free[id(request.ready)] = slots - request.open_count
    return waiting


def _state_of(request: OpenRequest, *, is_waiting: bool) -> RequestState:
    if is_waiting:
        return "waiting"
    return "decoding" if request.has_spoken else "prefill"


def _token_count(choice: ReplyStream) -> int:
    if choice.end is not None:
        return choice.end.usage.completion_tokens
    return 0 if choice.tally is None else choice.tally.token_count
