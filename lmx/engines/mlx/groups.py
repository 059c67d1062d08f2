"""The decoding rows as one or more batches, all of which are stepped in one step of the engine.

A batch costs what its rows would cost if all were as long as its longest, so rows of very different
length may be better off apart; `shapes` proposes, from what steps were measured to cost. What is
proposed is tried, and stays if it gives more tokens per second than what there was just before.
Knows rows and batches, no prompts and no clients.

A batch with a constrained row is held: its next masks depend on the tokens before, so it is
launched after they were read. The others are launched before, and keep the device busy meanwhile.
"""

from collections.abc import Callable, Sequence
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from lmx.engines.mlx.batch import DecodeBatch, Launched, Rows
from lmx.engines.mlx.costs import PassShape, StepCosts, StepMeter
from lmx.engines.mlx.sequence import LiveSequence
from lmx.engines.mlx.shapes import TURN_STEPS, Groups, RowState, Shaper

if TYPE_CHECKING:
    from lmx.engines.base import TokenLogprobs
    from lmx.engines.mlx.prefill import Ready

# Lengths change by one a step and costs slowly, so that looking more often finds nothing new.
STEPS_PER_LOOK = 32
STALL_SHARE = 0.1
FEWEST_ROWS = 2
# A new arrangement stays if it gives so many more tokens per second than the one before.
LEAST_PROVEN_GAIN = 1.02
# Looks that are skipped after an arrangement did not: twice as many each time.
FIRST_PAUSE_LOOKS, LONGEST_PAUSE_LOOKS = 8, 256


class Arrangement(NamedTuple):
    """Who is stepped with whom.

    Attributes:
        groups: The rows of each batch.
        has_waiting: The last group waits for its turn.
    """

    groups: list[list[LiveSequence]]
    has_waiting: bool


class Trial(NamedTuple):
    """An arrangement that has to prove itself.

    Attributes:
        before: What there was.
        rate: Tokens per second that it gave.
    """

    before: Arrangement
    rate: float


class DecodeGroups:
    """Sequences that get one token per step, unless they have to take turns.

    Args:
        make_batch: A batch without rows.
        clock: Seconds.
    """

    def __init__(
        self, make_batch: Callable[[], DecodeBatch], clock: Callable[[], float] = perf_counter
    ) -> None:
        self._make_batch: Callable[[], DecodeBatch] | None = make_batch
        self._batches: list[DecodeBatch] = []
        self._waiting: DecodeBatch | None = None  # has rows iff rows take turns
        self._held: list[DecodeBatch] = []  # to be launched after the tokens before were read
        self._costs = StepCosts()
        self._meter = StepMeter(self._costs, clock)
        self._stall_s = 0.0
        self._row_count = 0  # when rows last came or went
        self._trial: Trial | None = None
        self._pauses = _Pauses()
        self._steps = 0

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._all)

    @property
    def lone(self) -> DecodeBatch | None:
        """The batch of the only row, if one row is all there is."""
        return self._batches[0] if len(self) == 1 else None

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch that the next step launches."""
        return [len(batch) for batch in self._batches]

    @property
    def costs(self) -> StepCosts:
        """What was learned about steps."""
        return self._costs

    def join(self, ready: "Ready") -> None:
        """Add prefilled sequences; those removed in the meantime leave before the next launch."""
        rows = Rows.of(ready)
        if self._waiting is not None:
            self._waiting.join(rows)
        elif not self._batches:
            self._batches = [self._new_batch()]
            self._batches[0].join(rows)
        else:
            index = self._place(rows) if len(self._batches) > 1 else 0
            self._batches[index].join(rows)
        self._settle()

    def drop_done(self) -> None:
        """Free the rows that need no further launch."""
        for batch in self._all:
            batch.drop_done()
        if len(self) == self._row_count:
            return
        self._batches = [batch for batch in self._batches if len(batch)]
        if self._waiting is not None:
            # Those who wait get the places that are free.
            rows = [sequence for batch in self._all for sequence in batch.sequences]
            self._arrange(Arrangement([rows] if rows else [], has_waiting=False))
        self._settle()

    def disturb(self) -> None:
        """The device is given other work between two steps, which they seem to take longer for."""
        self._meter.disturb()

    def clear(self) -> None:
        """Free every row."""
        self._batches, self._held, self._waiting = [], [], None
        self._row_count, self._trial = 0, None

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self.clear()
        self._make_batch = None

    def launch(self) -> list[Launched]:
        """Submit the next step of every batch that need not wait for the tokens before.

        The others are launched by `launch_held`, once those were read.
        """
        self._steps += 1
        if self._waiting is not None and self._steps % TURN_STEPS == 0:
            self._swap(self._waiting)
        if self._trial is not None:
            self._judge(self._trial)
        elif self._steps % STEPS_PER_LOOK == 0 and self._pauses.is_over():
            self._look()
        self._held = [batch for batch in self._batches if batch.is_constrained]
        return _launch([batch for batch in self._batches if batch not in self._held])

    def launch_held(self) -> list[Launched]:
        """Submit the next step of the batches that `launch` left out.

        Every constraint must have consumed its row's last token.
        """
        held, self._held = self._held, []
        if not held:
            return []
        began = self._meter.clock()
        for batch in held:
            batch.drop_done()
        launched = _launch(held)
        self._stall_s += STALL_SHARE * (self._meter.clock() - began - self._stall_s)
        return launched

    def read(
        self, launched: Sequence[Launched]
    ) -> list[tuple[LiveSequence, int, "TokenLogprobs | None"]]:
        """What `launch` and `launch_held` have submitted; waits for the device."""
        if not launched:
            self._meter.disturb()
            return []
        if any(one.drafts is not None for one in launched):
            self._meter.disturb()
        found, ends = [], []
        for one in launched:
            found += one.read()
            ends.append(self._meter.clock())
        shapes = [PassShape(len(one.sequences), one.padded_tokens) for one in launched]
        self._meter.note(shapes, ends)
        return found

    @property
    def _all(self) -> list[DecodeBatch]:
        return self._batches if self._waiting is None else [*self._batches, self._waiting]

    def _new_batch(self) -> DecodeBatch:
        if self._make_batch is None:
            raise ValueError("the model is gone")
        return self._make_batch()

    def _settle(self) -> None:
        """Rows came or went: whatever was being tried is what there is."""
        self._row_count, self._trial = len(self), None
        self._meter.restart()

    def _place(self, rows: Rows) -> int:
        groups = [batch.sequences for batch in self._batches]
        return self._shaper([*groups, rows.sequences]).place(_numbered([*groups, rows.sequences]))

    def _shaper(self, groups: list[list[LiveSequence]]) -> Shaper:
        states = [_state(sequence) for group in groups for sequence in group]
        return Shaper(self._costs, states, stall_s=self._stall_s)

    def _look(self) -> None:
        """Try another arrangement if one promises to pay, and the present one's rate is known."""
        rate = self._meter.rate
        if rate is None or self._row_count < FEWEST_ROWS:
            return
        before = Arrangement([batch.sequences for batch in self._all], self._waiting is not None)
        shape = self._shaper(before.groups).improve(
            _numbered(before.groups), takes_turns=before.has_waiting
        )
        if shape is None:
            return
        rows = [sequence for group in before.groups for sequence in group]
        groups = [[rows[number] for number in group] for group in shape.groups]
        if shape.width is not None:
            # Those whose turn it is are the first, and stay.
            groups = [rows[: shape.width], rows[shape.width :]]
        self._arrange(Arrangement(groups, shape.width is not None))
        self._trial = Trial(before, rate)

    def _judge(self, trial: Trial) -> None:
        """Go back if what is being tried gives no more tokens than what there was."""
        rate = self._meter.rate
        if rate is None:
            return
        self._trial = None
        if rate >= LEAST_PROVEN_GAIN * trial.rate:
            self._pauses.forget()
        else:
            self._pauses.begin()
            self._arrange(trial.before)

    def _arrange(self, wanted: Arrangement) -> None:
        self._meter.restart()
        batches = self._regroup(self._all, wanted.groups)
        self._waiting = batches.pop() if wanted.has_waiting else None
        self._batches = batches

    def _regroup(
        self, batches: list[DecodeBatch], groups: list[list[LiveSequence]]
    ) -> list[DecodeBatch]:
        """Batches of these rows; one that has them already stays as it is."""
        there = {frozenset(batch.sequences): batch for batch in batches}
        found = []
        for group in groups:
            wanted = frozenset(group)
            batch = there.get(wanted)
            if batch is None:
                batch = self._new_batch()
                for source in batches:
                    places = [row for row, s in enumerate(source.sequences) if s in wanted]
                    if places:
                        batch.join(source.take(places))
            found.append(batch)
        return found

    def _swap(self, waiting: DecodeBatch) -> None:
        """Let the rows that have waited longest have the turn of those that had theirs longest."""
        self._meter.disturb()
        batch = self._batches[0]
        places = range(min(len(waiting), len(batch)))
        ending, beginning = batch.take(places), waiting.take(places)
        batch.join(beginning)
        waiting.join(ending)


class _Pauses:
    """How long not to look for a better arrangement, after one was none."""

    def __init__(self) -> None:
        self._looks = 0
        self._next = FIRST_PAUSE_LOOKS

    def is_over(self) -> bool:
        """Counts the looks that are asked for."""
        self._looks = max(0, self._looks - 1)
        return not self._looks

    def begin(self) -> None:
        """An arrangement was none."""
        self._looks = self._next
        self._next = min(2 * self._next, LONGEST_PAUSE_LOOKS)

    def forget(self) -> None:
        """One was better."""
        self._next = FIRST_PAUSE_LOOKS


def _numbered(groups: list[list[LiveSequence]]) -> Groups:
    """The same groups, as numbers of their rows."""
    numbers = count()
    return [[next(numbers) for _ in group] for group in groups]


def _launch(batches: list[DecodeBatch]) -> list[Launched]:
    launched = (batch.launch() for batch in batches)
    return [one for one in launched if one is not None]


def _state(sequence: LiveSequence) -> RowState:
    is_held = sequence.constraint is not None and sequence.constraint.is_binding
    return RowState(sequence.length_tokens, sequence.left_tokens, is_held)
