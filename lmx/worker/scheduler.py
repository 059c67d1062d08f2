"""Which sequences run, and what each engine step means for their requests.

Theory of operation. A request is *waiting* (tokenised, no slots), then its choices are *running*
(in the engine), then gone; each choice leaves by exactly one `Finished`, also when it is cancelled,
so that the daemon can close its books. Waiting requests enter as slots and cache come free, in the
order that `lmx.worker.turns` gives, all choices of one at once, because they share a prefill; how
much of which prompts a step computes, `lmx.worker.planner` says. The sum of what running
requests may come to need never exceeds the cache that was granted at load. The scheduler knows
token ids and text deltas; it knows no socket, no thread and no template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    Engine,
    PrefixUse,
    StepResult,
    Tokenizer,
)
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Delta, Finished, RequestEvent, Vitals
from lmx.protocol.values import FinishReason, Kept, Timings, Usage
from lmx.worker.constraints import ReasoningConstraint
from lmx.worker.logprobs import describe_prompt, describe_token
from lmx.worker.output import SequenceOutput
from lmx.worker.pacing import USUAL_PACE, PaceSettings
from lmx.worker.planner import Planner
from lmx.worker.turns import Turn

# How often the daemon hears of work that delivers nothing, such as a long prefill.
VITALS_PERIOD_S = 0.5


@dataclass(slots=True, eq=False)
class Ready:
    """A tokenised request, on its way from the intake thread into the engine.

    Attributes:
        choices: What to generate; each choice's sequence id is the daemon's number for it.
        token_ids: The prompt, at least one id, within the context.
        stop: Strings that end the text.
        ready_at_s: When tokenising ended, on the scheduler's clock.
        wants_prompt_logprobs: Report the prompt's log-probabilities with the first choice.
        client: Whose turn it takes.
        priority: Lower numbers go first.
        prefix: What the prompt may share with others.
    """

    choices: list[Choice]
    token_ids: list[int]
    stop: Sequence[str]
    ready_at_s: float
    wants_prompt_logprobs: bool = False
    client: str = ""
    priority: int = 0
    prefix: PrefixUse = SHARES_FREELY

    @property
    def cache_tokens(self) -> int:
        """Tokens of cache that all its choices may come to need together."""
        longest = max(choice.sampling.max_tokens for choice in self.choices)
        return len(self.choices) * (len(self.token_ids) + longest)


class _Running:
    """Books of one sequence in the engine."""

    __slots__ = (
        "accepted_tokens",
        "added_at_s",
        "cached_tokens",
        "drafted_tokens",
        "first_token_at_s",
        "output",
        "ready",
        "sampled",
    )

    def __init__(
        self,
        ready: Ready,
        output: SequenceOutput,
        *,
        added_at_s: float,
    ) -> None:
        self.ready = ready
        self.output = output
        self.added_at_s = added_at_s
        self.cached_tokens = 0
        self.first_token_at_s: float | None = None
        self.sampled = 0
        self.drafted_tokens = self.accepted_tokens = 0

    def finished(self, sequence: int, reason: FinishReason, now_s: float) -> Finished:
        first = now_s if self.first_token_at_s is None else self.first_token_at_s
        timings = Timings(
            queue_s=self.added_at_s - self.ready.ready_at_s,
            prefill_s=first - self.added_at_s,
            decode_s=now_s - first,
        )
        usage = Usage(
            len(self.ready.token_ids),
            self.sampled,
            self.cached_tokens,
            self.drafted_tokens,
            self.accepted_tokens,
        )
        return Finished(sequence, reason, usage, timings, stop=self.output.met_stop)


class Scheduler:
    """Owns every step of one engine. Engine thread only.

    Args:
        engine: The engine, already loaded.
        tokenizer: Makes a detokenizer per sequence.
        visible: Special tokens that stay in the text.
        clock: Seconds, monotonic.
        cache_tokens: Tokens that running requests may hold together; `None` for no limit but the
            engine's own.
        pace: How long a running stream may wait for a token, and how fast the engine is.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        visible: frozenset[str],
        clock: Callable[[], float],
        cache_tokens: int | None = None,
        pace: PaceSettings = USUAL_PACE,
    ) -> None:
        self._cache_tokens = cache_tokens
        self._engine = engine
        self._tokenizer = tokenizer
        self._visible = visible
        self._clock = clock
        self._planner = Planner(engine, pace=pace)
        self._waiting: dict[Turn, Ready] = {}  # in order of arrival
        self._running: dict[int, _Running] = {}
        self._told_at_s = self._vital_at_s = clock()
        self._has_removed = False
        self._told_kept = Kept()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting or self._has_removed)

    def submit(self, ready: Ready) -> None:
        """Take a request; it waits for its turn."""
        turn = self._planner.enter(
            ready.client,
            priority=ready.priority,
            tokens=len(ready.token_ids),
            now_s=ready.ready_at_s,
        )
        self._waiting[turn] = ready

    def cancel(self, sequence: int) -> list[RequestEvent]:
        """Free what a choice holds, before the next step. Unknown sequences are ignored."""
        running = self._running.pop(sequence, None)
        if running is not None:
            self._engine.remove(sequence)
            self._has_removed = True
            self._planner.drop(sequence)
            return [running.finished(sequence, "cancelled", self._clock())]
        for turn, ready in self._waiting.items():
            kept = [choice for choice in ready.choices if choice.sequence_id != sequence]
            if len(kept) < len(ready.choices):
                ready.choices = kept
                if not kept:
                    del self._waiting[turn]
                    self._planner.withdraw(turn)
                return [_never_started(ready, sequence, self._clock())]
        return []

    def stop_thinking(self, sequence: int) -> None:
        """End a choice's reasoning; see `StopThinking`."""
        running = self._running.get(sequence)
        for ready in self._waiting.values() if running is None else [running.ready]:
            for choice in ready.choices:
                constraint = choice.constraint
                if choice.sequence_id == sequence and isinstance(constraint, ReasoningConstraint):
                    constraint.stop_thinking()

    def step(self) -> list[RequestEvent | Vitals]:
        """Fill free slots, run one engine step, and say what came of it.

        Raises:
            OutOfMemory: The device ran out in the middle of a step; the process must end.
        """
        self._has_removed = False
        events = self._fill_slots()
        shares = self._planner.plan(self._clock())
        began_s = self._clock()
        results = self._engine.step(shares)
        now_s = self._clock()
        # A step that checked a draft is no measure of what steps beside a prompt take.
        is_usual = bool(results) and not any(result.drafted_tokens for result in results)
        self._planner.observe(began_s, now_s, delivered=is_usual)
        for result in results:
            self._account(result, events, now_s)
        told: list[RequestEvent | Vitals] = [*events]
        if self._is_vital(now_s, is_silent=not told):
            memory = self._engine.memory()
            told.append(Vitals(memory, self._planner.pacing))
            self._told_kept = memory.kept
            self._planner.has_news = False
            self._vital_at_s = now_s
        if told:
            self._told_at_s = now_s
        return told

    def rest(self) -> bool:
        """Do a piece of what can wait while there is no work; see `Engine.rest`."""
        return self._engine.rest()

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Give back memory that is only kept for speed; see `Shrink`."""
        self._engine.shrink(prefix_cache_bytes)

    def _is_vital(self, now_s: float, *, is_silent: bool) -> bool:
        """Whether to tell how it goes.

        Nothing else is told, prompts were computed beside, or all have ended and something is kept.
        """
        if is_silent:
            return now_s - self._told_at_s >= VITALS_PERIOD_S
        has_news = self._planner.has_news
        if not self._running:
            has_news |= self._engine.memory().kept != self._told_kept
        return has_news and now_s - self._vital_at_s >= VITALS_PERIOD_S

    def _fill_slots(self) -> list[RequestEvent]:
        events: list[RequestEvent] = []
        if not self._waiting or not self._engine.free_slots:
            return events
        for turn in self._planner.line_up(self._waiting, self._clock()):
            ready = self._waiting[turn]
            if not self._has_room_for(ready):
                turn.is_held = self._engine.free_slots > 0
                break
            del self._waiting[turn]
            events += self._admit(turn, ready)
        return events

    def _admit(self, turn: Turn, ready: Ready) -> list[RequestEvent]:
        now_s = self._clock()
        sequences = [choice.sequence_id for choice in ready.choices]
        try:
            self._engine.add(
                ready.choices,
                ready.token_ids,
                wants_prompt_logprobs=ready.wants_prompt_logprobs,
                prefix=ready.prefix,
            )
        except OutOfMemory as error:
            self._planner.withdraw(turn)
            return [_never_started(ready, number, now_s, error=error) for number in sequences]
        self._planner.admit(turn, sequences)
        for number in sequences:
            self._running[number] = _Running(
                ready,
                SequenceOutput(self._tokenizer.new_detokenizer(self._visible), ready.stop),
                added_at_s=now_s,
            )
        return []

    def _has_room_for(self, ready: Ready) -> bool:
        if self._engine.free_slots < len(ready.choices):
            return False
        if self._cache_tokens is None or not self._running:
            return True  # alone it runs, whatever it needs: nothing else could be waited for
        share = {id(r.ready): r.ready.cache_tokens for r in self._running.values()}
        return sum(share.values()) + ready.cache_tokens <= self._cache_tokens

    def _account(self, result: StepResult, events: list[RequestEvent], now_s: float) -> None:
        number = result.sequence_id
        running = self._running.get(number)
        if running is None:
            return  # a token before it in the same step ended the answer
        running.sampled += 1
        self._planner.take_token(number)
        running.drafted_tokens += result.drafted_tokens
        running.accepted_tokens += result.is_drafted
        if running.first_token_at_s is None:
            running.first_token_at_s = now_s
            running.cached_tokens = result.cached_tokens
        shown_id = None if result.finish == "stop" else result.token_id
        text, is_stopped = running.output.feed(shown_id, is_last=result.finish is not None)
        if result.logprobs is not None or result.prompt_logprobs is not None:
            events.append(self._scored_delta(result, running, text))
        elif text:
            add_text(events, number, text)
        if is_stopped and result.finish is None:
            self._engine.remove(number)
            self._has_removed = True
        if is_stopped or result.finish is not None:
            del self._running[number]
            self._planner.drop(number)
            reason: FinishReason = "length" if result.finish == "length" else "stop"
            reason = "stop" if is_stopped else reason
            events.append(running.finished(number, reason, now_s))

    def _scored_delta(self, result: StepResult, running: _Running, text: str) -> Delta:
        scores = (
            []
            if result.logprobs is None or result.finish == "stop"
            else [describe_token(result.token_id, result.logprobs, self._tokenizer)]
        )
        prompt_scores = (
            []
            if result.prompt_logprobs is None
            else describe_prompt(running.ready.token_ids, result.prompt_logprobs, self._tokenizer)
        )
        return Delta(result.sequence_id, text, 1, scores, prompt_scores)


def add_text(events: list[RequestEvent], sequence: int, text: str) -> None:
    """One more token's text, in one piece with that of the token before if both came together."""
    last = events[-1] if events else None
    if isinstance(last, Delta) and last.sequence == sequence and not last.logprobs:
        events[-1] = msgspec.structs.replace(
            last, text=last.text + text, token_count=last.token_count + 1
        )
    else:
        events.append(Delta(sequence, text, 1))


def _never_started(
    ready: Ready, sequence: int, now_s: float, *, error: OutOfMemory | None = None
) -> Finished:
    usage = Usage(len(ready.token_ids), 0)
    timings = Timings(queue_s=now_s - ready.ready_at_s)
    if error is None:
        return Finished(sequence, "cancelled", usage, timings)
    return Finished(sequence, "error", usage, timings, error.code, error.message)
