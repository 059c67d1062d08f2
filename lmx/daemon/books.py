"""The books on requests: who has come, what became of them, and where their time went.

Each request is entered once and closed once, whatever happens between, so that every
``request_received`` has its ``request_completed``. Only here are the counters of requests changed.
It waits for nothing and ends nothing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog
import trio

from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.origin import Origin
from lmx.daemon.recent import EndedRequest
from lmx.daemon.reply import ReplyStream
from lmx.daemon.running import OpenRequest, RunningRequests
from lmx.daemon.tally import RequestTally
from lmx.daemon.telemetry import NO_MODEL, Telemetry
from lmx.errors import LmxError, RequestCancelled, from_code
from lmx.protocol.messages import Finished
from lmx.protocol.values import FinishReason

log = structlog.get_logger("lmx.requests")


class Outcome(NamedTuple):
    """How a request ended; the error is `None` also where the client hung up."""

    reason: FinishReason
    error: LmxError | None

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.reason in {"stop", "length"}


class Books:
    """Keeps account of all requests.

    Args:
        telemetry: What is written into.

    Attributes:
        running: Requests that have not ended.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self.running = RunningRequests()

    @contextmanager
    def entry(self, origin: Origin, model_name: str) -> Iterator[OpenRequest]:
        """One request, from its coming to its end.

        Args:
            origin: Where it comes from.
            model_name: As the client spelled it.
        """
        request = self.running.enter(origin, model_name)
        self._telemetry.received += 1
        self._telemetry.publish(
            "request_received",
            request_id=origin.request_id,
            model_id=request.model_id,
            client=origin.client,
            route=origin.route,
        )
        try:
            yield request
        except LmxError as error:
            request.error = error
            raise
        finally:
            self.running.leave(request)
            self._close(request)

    def admit(self, request: OpenRequest, model: Model, ready: ReadyModel) -> RequestTally:
        """A model has taken it on."""
        self._telemetry.admitted += 1
        measures = self._telemetry.models.of(model.id)
        measures.open_count += 1
        return request.admit(model, ready, measures)

    def start(self, request: OpenRequest) -> None:
        """The worker has taken it on."""
        if request.tally is not None:
            request.tally.started_s = trio.current_time()
        self._telemetry.publish(
            "request_started",
            request_id=request.origin.request_id,
            model_id=request.model_id,
            prompt_tokens=request.prompt_tokens,
            client=request.origin.client,
            route=request.origin.route,
        )

    def _close(self, request: OpenRequest) -> None:
        outcome = _outcome(request)
        if request.tally is None or request.model is None:
            self._telemetry.refused += 1
        else:
            request.tally.measures.open_count -= 1
            self._count_outcome(request.tally, outcome)
            self._count_tokens(request, request.tally)
            self._count_times(request, request.tally, outcome)
            self._record(request, request.model, outcome)
        if outcome.error is not None and outcome.reason == "error":
            known = self._telemetry.models.of(
                NO_MODEL if request.model is None else request.model_id
            )
            known.errors[outcome.error.code] += 1
            self._telemetry.recent.add_error(
                outcome.error, at=round(time.time(), 3), model=request.model_id
            )
        self._count_client(request, outcome)
        self._tell(request, outcome)

    def _count_outcome(self, tally: RequestTally, outcome: Outcome) -> None:
        tally.measures.outcomes[outcome.reason] += 1
        if outcome.is_ok:
            self._telemetry.completed += 1
        elif outcome.reason == "cancelled":
            self._telemetry.cancelled += 1
        else:
            self._telemetry.failed += 1

    def _count_tokens(self, request: OpenRequest, tally: RequestTally) -> None:
        """What is known only at the end; what was delivered has been counted as it came."""
        totals, ends = tally.measures.totals, _ends(request.choices)
        for choice in request.choices:
            if choice.end is not None and choice.tally is not None:
                unseen = choice.end.usage.completion_tokens - choice.tally.token_count
                totals.generated_tokens += max(0, unseen)
        if request.has_spoken or any(end.reason in {"stop", "length"} for end in ends):
            totals.prompt_tokens += request.prompt_tokens
            totals.cached_tokens += ends[0].usage.cached_tokens if ends else 0
        totals.drafted_tokens += sum(end.usage.drafted_tokens for end in ends)
        totals.accepted_tokens += sum(end.usage.accepted_tokens for end in ends)
        totals.ended_tokens += sum(end.usage.completion_tokens for end in ends)
        totals.decode_s += max((end.timings.decode_s for end in ends), default=0.0)

    def _count_times(self, request: OpenRequest, tally: RequestTally, outcome: Outcome) -> None:
        """Of answered requests: what was cut short says nothing of how long anything takes."""
        if not outcome.is_ok:
            return
        latencies, ends = tally.measures.latencies, _ends(request.choices)
        first = min(ends, key=lambda end: end.timings.queue_s)
        decode_s = max(end.timings.decode_s for end in ends)
        latencies.queue.observe(_queue_s(request))
        latencies.prefill.observe(first.timings.prefill_s)
        latencies.decode.observe(decode_s)
        duration_s = _ended_s(request) - request.received_s
        latencies.whole.observe(duration_s)
        speed = request.completion_tokens / decode_s if decode_s else 0.0
        self._telemetry.recent.add_answered(EndedRequest(duration_s, speed))

    def _record(self, request: OpenRequest, model: Model, outcome: Outcome) -> None:
        """What the model's own rows tell, and the log."""
        ends = _ends(request.choices)
        tokens = sum(end.usage.completion_tokens for end in ends)
        decode_s = max((end.timings.decode_s for end in ends), default=0.0)
        if request.ready is not None:
            request.ready.generated_tokens += tokens
        if ends:
            is_answered = all(end.reason in {"stop", "length"} for end in ends)
            model.count(tokens=tokens, decode_s=decode_s, is_answered=is_answered)
        failure = {} if outcome.error is None else {"code": outcome.error.code}
        log.info(
            "request ended",
            request_id=request.origin.request_id,
            client=request.origin.client,
            model=model.id,
            reason=outcome.reason,
            prompt_tokens=request.prompt_tokens,
            completion_tokens=tokens,
            tokens_per_second=round(tokens / decode_s, 1) if decode_s else 0.0,
            decode_s=round(decode_s, 3),
            **failure,
        )

    def _count_client(self, request: OpenRequest, outcome: Outcome) -> None:
        self._telemetry.recent.count_end()
        client = self._telemetry.clients.of(request.origin.client)
        client.requests += 1
        client.errors += outcome.reason == "error"
        client.prompt_tokens += request.prompt_tokens
        client.completion_tokens += request.completion_tokens

    def _tell(self, request: OpenRequest, outcome: Outcome) -> None:
        tally, ends = request.tally, _ends(request.choices)
        decode_s = max((end.timings.decode_s for end in ends), default=0.0)
        tokens = request.completion_tokens
        first_text_s = None if tally is None else tally.first_text_s
        self._telemetry.publish(
            "request_completed",
            request_id=request.origin.request_id,
            model_id=request.model_id,
            prompt_tokens=request.prompt_tokens,
            completion_tokens=tokens,
            tokens_per_second=round(
                tokens / decode_s if decode_s else request.tokens_per_second, 2
            ),
            duration_ms=_ms(_ended_s(request) - request.received_s),
            ok=outcome.is_ok,
            finish_reason=outcome.reason,
            ttft_ms=None if first_text_s is None else _ms(first_text_s - request.received_s),
            queue_ms=_ms(_queue_s(request)),
            code=None if outcome.error is None else outcome.error.code,
        )


def _outcome(request: OpenRequest) -> Outcome:
    """The worst of what became of its choices; before there are any, why it was refused."""
    if not request.choices:
        is_cancelled = request.error is None or isinstance(request.error, RequestCancelled)
        return Outcome("cancelled" if is_cancelled else "error", request.error)
    outcomes = [_choice_outcome(choice) for choice in request.choices]
    for reason in ("error", "cancelled"):
        for outcome in outcomes:
            if outcome.reason == reason:
                return outcome
    return outcomes[0]


def _choice_outcome(choice: ReplyStream) -> Outcome:
    error, end = choice.error, choice.end
    if isinstance(error, RequestCancelled):
        return Outcome("cancelled", error)
    if error is not None:
        return Outcome("error", error)
    if end is None:
        return Outcome("cancelled", None)
    if end.reason == "error":
        code, message = end.code or LmxError.code, end.message or "the generation failed"
        return Outcome("error", from_code(code, message))
    return Outcome(end.reason, None)


def _ends(choices: Sequence[ReplyStream]) -> list[Finished]:
    return [choice.end for choice in choices if choice.end is not None]


def _queue_s(request: OpenRequest) -> float:
    """From received to having a slot, as far as it got."""
    tally, ends = request.tally, _ends(request.choices)
    if tally is None or tally.started_s is None:
        return _ended_s(request) - request.received_s
    in_worker_s = min((end.timings.queue_s for end in ends), default=0.0)
    return tally.started_s - request.received_s + in_worker_s


def _ended_s(request: OpenRequest) -> float:
    ended_s = None if request.tally is None else request.tally.ended_s
    return trio.current_time() if ended_s is None else ended_s


def _ms(duration_s: float) -> float:
    return round(1000 * duration_s, 3)
