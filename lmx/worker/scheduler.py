"""Which sequences run, and what each engine step means for their requests.

Theory of operation. A request is *waiting* (tokenised, no slot), then *running* (in the engine),
then gone; it leaves by exactly one `Finished`, or silently when it was cancelled before that, in
which case `Finished("cancelled")` is still sent so that the daemon can close its books. Waiting
requests enter in order of arrival as slots come free. The scheduler knows token ids and text
deltas; it knows no socket, no thread and no template.
"""

from collections import deque
from collections.abc import Callable, Sequence

from lmx.engines.base import Engine, StepResult, Tokenizer
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Delta, Finished, RequestEvent
from lmx.protocol.values import FinishReason, Sampling, Timings, Usage
from lmx.worker.output import SequenceOutput


class Ready:
    """A tokenised request, on its way from the intake thread into the engine.

    Attributes:
        sequence: The daemon's number for it.
        token_ids: The rendered prompt, at least one id, within the context.
        sampling: With ``max_tokens`` already clamped to the context.
        stop: Strings that end the text.
        ready_at_s: When tokenising ended, on the scheduler's clock.
    """

    __slots__ = ("ready_at_s", "sampling", "sequence", "stop", "token_ids")

    def __init__(
        self,
        sequence: int,
        token_ids: list[int],
        *,
        sampling: Sampling,
        stop: Sequence[str],
        ready_at_s: float,
    ) -> None:
        self.sequence = sequence
        self.token_ids = token_ids
        self.sampling = sampling
        self.stop = stop
        self.ready_at_s = ready_at_s


class _Running:
    """Books of one sequence in the engine."""

    __slots__ = ("added_at_s", "cached_tokens", "first_token_at_s", "output", "ready", "sampled")

    def __init__(
        self, ready: Ready, output: SequenceOutput, *, added_at_s: float, cached_tokens: int
    ) -> None:
        self.ready = ready
        self.output = output
        self.added_at_s = added_at_s
        self.cached_tokens = cached_tokens
        self.first_token_at_s: float | None = None
        self.sampled = 0

    def finished(self, reason: FinishReason, now_s: float) -> Finished:
        first = now_s if self.first_token_at_s is None else self.first_token_at_s
        timings = Timings(
            queue_s=self.added_at_s - self.ready.ready_at_s,
            prefill_s=first - self.added_at_s,
            decode_s=now_s - first,
        )
        usage = Usage(len(self.ready.token_ids), self.sampled, self.cached_tokens)
        return Finished(self.ready.sequence, reason, usage, timings)


class Scheduler:
    """Owns every step of one engine. Engine thread only.

    Args:
        engine: The engine, already loaded.
        tokenizer: Makes a detokenizer per sequence.
        clock: Seconds, monotonic.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._clock = clock
        self._waiting: deque[Ready] = deque()
        self._running: dict[int, _Running] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def submit(self, ready: Ready) -> None:
        """Queue a request behind those that wait."""
        self._waiting.append(ready)

    def cancel(self, sequence: int) -> list[RequestEvent]:
        """Free what a request holds, before the next step. Unknown sequences are ignored."""
        running = self._running.pop(sequence, None)
        if running is not None:
            self._engine.remove(sequence)
            return [running.finished("cancelled", self._clock())]
        for ready in self._waiting:
            if ready.sequence == sequence:
                self._waiting.remove(ready)
                return [_never_started(ready, self._clock())]
        return []

    def step(self) -> list[RequestEvent]:
        """Fill free slots, run one engine step, and say what came of it.

        Raises:
            OutOfMemory: The device ran out in the middle of a step; the process must end.
        """
        events = self._fill_slots()
        results = self._engine.step()
        now_s = self._clock()
        for result in results:
            self._account(result, events, now_s)
        return events

    def _fill_slots(self) -> list[RequestEvent]:
        events: list[RequestEvent] = []
        while self._waiting and self._engine.free_slots > 0:
            ready = self._waiting.popleft()
            now_s = self._clock()
            try:
                cached = self._engine.add(ready.sequence, ready.token_ids, ready.sampling)
            except OutOfMemory as error:
                events.append(_never_started(ready, now_s, error=error))
                continue
            output = SequenceOutput(self._tokenizer.new_detokenizer(), ready.stop)
            self._running[ready.sequence] = _Running(
                ready, output, added_at_s=now_s, cached_tokens=cached
            )
        return events

    def _account(self, result: StepResult, events: list[RequestEvent], now_s: float) -> None:
        running = self._running[result.sequence_id]
        running.sampled += 1
        if running.first_token_at_s is None:
            running.first_token_at_s = now_s
        text, is_stopped = running.output.feed(result.token_id, result.finish)
        if text:
            events.append(Delta(result.sequence_id, text, 1))
        if is_stopped and result.finish is None:
            self._engine.remove(result.sequence_id)
        if is_stopped or result.finish is not None:
            del self._running[result.sequence_id]
            reason: FinishReason = "length" if result.finish == "length" else "stop"
            events.append(running.finished("stop" if is_stopped else reason, now_s))


def _never_started(ready: Ready, now_s: float, *, error: OutOfMemory | None = None) -> Finished:
    usage = Usage(len(ready.token_ids), 0)
    timings = Timings(queue_s=now_s - ready.ready_at_s)
    if error is None:
        return Finished(ready.sequence, "cancelled", usage, timings)
    return Finished(ready.sequence, "error", usage, timings, error.code, error.message)
