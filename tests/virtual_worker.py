"""A scheduler on a fake engine in virtual time, and what its requests see of it.

Time passes only inside the engine and when a test lets it; a request comes when its time has come,
as through the inbox: between two steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lmx.engines.base import Choice, PrefillShare, StepResult
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.fake_tokens import FakeTokenizer
from lmx.protocol.messages import Delta, Finished, Vitals
from lmx.protocol.values import ModelInfo, Sampling
from lmx.worker.pacing import PaceSettings
from lmx.worker.scheduler import Ready, Scheduler


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


class PipelinedEngine(FakeEngine):
    """A fake engine whose pieces of prompts take their time `lag` steps after they were asked for.

    What is asked of prompts is done at once and paid for later, as with a device that computes
    what is queued for it while the next step is prepared.
    """

    lag = 2

    def __init__(self, settings: FakeSettings, info: ModelInfo, *, clock: Clock) -> None:
        super().__init__(settings, info, sleep=self._owe)
        self._clock = clock
        self._is_prefilling = False
        self._owed: list[float] = [0.0] * self.lag

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        self._owed.append(0.0)
        self._clock.sleep(self._owed.pop(0))
        results = super().step(shares)
        if not results:  # nothing decodes: it waits for the step before
            self._clock.sleep(sum(self._owed[:-1]))
            self._owed[:-1] = [0.0] * (self.lag - 1)
        return results

    def _prefill(self, shares: Sequence[PrefillShare]) -> None:
        self._is_prefilling = True
        super()._prefill(shares)
        self._is_prefilling = False

    def _owe(self, seconds: float) -> None:
        if self._is_prefilling:
            self._owed[-1] += seconds
        else:
            self._clock.sleep(seconds)


@dataclass(slots=True)
class Seen:
    """What one request saw.

    Attributes:
        came_s: When it came.
        token_times_s: When its tokens came.
        ended_s: When it ended.
    """

    came_s: float
    token_times_s: list[float] = field(default_factory=list)
    ended_s: float | None = None

    @property
    def ttft_s(self) -> float:
        """From its coming to its first token."""
        return self.token_times_s[0] - self.came_s

    @property
    def gaps_s(self) -> list[float]:
        """Between its tokens."""
        return [after - before for before, after in pairwise(self.token_times_s)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to come.

    Attributes:
        at_s: When.
        prompt_tokens: Of its prompt.
        tokens: Of its answer.
        client: Whose it is.
        priority: Lower goes first.
        count: Of its choices.
    """

    at_s: float
    prompt_tokens: int
    tokens: int
    client: str = ""
    priority: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What computes.

    Attributes:
        device: Where it pretends to compute.
        step_ms: Of a decode step, however many decode.
        tokens_per_s: Of prefill.
        chunk: Most tokens of a piece.
        kind: Of engine.
    """

    device: str = "gpu"
    step_ms: float = 10.0
    tokens_per_s: float = 10_000.0
    chunk: int = 2048
    kind: type[FakeEngine] = FakeEngine

    def engine(self, slots: int, clock: Clock) -> FakeEngine:
        """An engine whose time is the clock's and whose answers are as long as asked for."""
        settings = FakeSettings(
            step_ms=self.step_ms,
            prefill_ms=1000 * self.chunk / self.tokens_per_s,
            chunk=self.chunk,
            tokens=10**6,
        )
        info = ModelInfo(context_tokens=10**7, max_sequences=slots, device=self.device)
        if issubclass(self.kind, PipelinedEngine):
            return self.kind(settings, info, clock=clock)
        return self.kind(settings, info, sleep=clock.sleep)


USUAL = Machine()


class VirtualWorker:
    """Runs requests in virtual time.

    Args:
        machine: What computes.
        slots: Sequences that run together.
        gap_target_s: See `Scheduler`.

    Attributes:
        clock: Its time.
        seen: By requests, in the order in which they were given, the first choice of each.
        vitals: What was told of how it goes, and when.
    """

    def __init__(
        self, machine: Machine = USUAL, *, slots: int = 8, gap_target_s: float | None = None
    ) -> None:
        self.clock = Clock()
        engine = machine.engine(slots, self.clock)
        self.scheduler = Scheduler(
            engine,
            FakeTokenizer(),
            visible=frozenset(),
            clock=self.clock,
            pace=PaceSettings(gap_target_s),
        )
        self.seen: list[Seen] = []
        self.vitals: list[tuple[float, Vitals]] = []

    def run(self, *requests: Asked, until_s: float | None = None) -> list[Seen]:
        """Let requests come and run them to their ends.

        Args:
            requests: To come, in any order.
            until_s: Stop then, whatever still runs.

        Returns:
            What each saw, in the order given.
        """
        first = len(self.seen)
        self.seen += [Seen(asked.at_s) for asked in requests]
        coming = sorted(range(len(requests)), key=lambda index: requests[index].at_s, reverse=True)
        while coming or self.scheduler.has_work:
            if until_s is not None and self.clock.now_s >= until_s:
                break
            if not self.scheduler.has_work:
                self.clock.now_s = max(self.clock.now_s, requests[coming[-1]].at_s)
            while coming and requests[coming[-1]].at_s <= self.clock.now_s:
                index = coming.pop()
                self.scheduler.submit(_ready(first + index, requests[index]))
            self._step()
        return self.seen[first:]

    def _step(self) -> None:
        for event in self.scheduler.step():
            if isinstance(event, Vitals):
                self.vitals.append((self.clock.now_s, event))
            if isinstance(event, Delta | Finished) and event.sequence % 100 == 0:
                seen = self.seen[event.sequence // 100]
                if isinstance(event, Delta):
                    seen.token_times_s.append(self.clock.now_s)
                else:
                    seen.ended_s = self.clock.now_s


def _ready(index: int, asked: Asked) -> Ready:
    """A request whose choices are numbered from a hundred times its index on."""
    sampling = Sampling(asked.tokens, temperature=0.0)
    return Ready(
        [Choice(100 * index + offset, sampling) for offset in range(asked.count)],
        [index % 200 + 1] * asked.prompt_tokens,
        stop=(),
        ready_at_s=asked.at_s,
        client=asked.client,
        priority=asked.priority,
    )
