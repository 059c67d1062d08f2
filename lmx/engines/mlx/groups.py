"""The decoding rows as one or more batches, all of which are stepped in one step of the engine.

A batch costs what its rows would cost if all were as long as its longest, so rows of very different
length may be better off apart; `shapes` decides, from what steps were measured to cost. Knows rows
and batches, no prompts and no clients.

A batch with a constrained row is held: its next masks depend on the tokens before, so it is
launched after they were read. The others are launched before, and keep the device busy meanwhile.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from lmx.engines.mlx.batch import DecodeBatch, Launched, Rows
from lmx.engines.mlx.costs import PassShape, StepCosts, StepMeter
from lmx.engines.mlx.sequence import LiveSequence
from lmx.engines.mlx.shapes import TURN_STEPS, RowState, Shaper

if TYPE_CHECKING:
    from lmx.engines.base import TokenLogprobs
    from lmx.engines.mlx.prefill import Ready

# Lengths change by one a step and costs slowly, so that looking more often finds nothing new.
STEPS_PER_LOOK = 32
STALL_SHARE = 0.1


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
        self._arranged = 0  # rows there were when they were last put in place
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
        batch = self._new_batch()
        batch.join(Rows.of(ready))
        self._batches.append(batch)
        self._arrange()

    def drop_done(self) -> None:
        """Free the rows that need no further launch."""
        for batch in self._all:
            batch.drop_done()
        if len(self) == self._arranged:
            return
        self._meter.disturb()
        self._arrange()

    def disturb(self) -> None:
        """The device is given other work between two steps, which they seem to take longer for."""
        self._meter.disturb()

    def clear(self) -> None:
        """Free every row."""
        self._batches, self._held, self._waiting = [], [], None
        self._arranged = 0

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
        if self._steps % STEPS_PER_LOOK == 0:
            self._arrange()
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

    def _arrange(self) -> None:
        """Put the rows into the batches that pay most."""
        batches = [batch for batch in self._all if len(batch)]
        sequences = [sequence for batch in batches for sequence in batch.sequences]
        rows = [_state(sequence) for sequence in sequences]
        places = iter(range(len(rows)))
        current = [[next(places) for _ in batch.sequences] for batch in batches]
        shaper = Shaper(self._costs, rows, stall_s=self._stall_s)
        shape = shaper.choose(current, takes_turns=self._waiting is not None)
        groups = shape.groups
        if shape.width is not None:
            # Those whose turn it is are the first, and stay.
            groups = [list(range(shape.width)), list(range(shape.width, len(rows)))]
        self._batches = self._regroup(batches, [[sequences[row] for row in g] for g in groups])
        self._waiting = None if shape.width is None else self._batches.pop()
        self._arranged = len(rows)

    def _regroup(
        self, batches: list[DecodeBatch], groups: list[list[LiveSequence]]
    ) -> list[DecodeBatch]:
        """Batches of these rows; one that has them already stays as it is."""
        there = {frozenset(batch.sequences): batch for batch in batches}
        found = []
        for group in groups:
            wanted = frozenset(group)
            batch = there.get(wanted)
            if batch is None and wanted:
                self._meter.disturb()
                batch = self._new_batch()
                for source in batches:
                    places = [row for row, s in enumerate(source.sequences) if s in wanted]
                    if places:
                        batch.join(source.take(places))
            if batch is not None:
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


def _launch(batches: list[DecodeBatch]) -> list[Launched]:
    launched = (batch.launch() for batch in batches)
    return [one for one in launched if one is not None]


def _state(sequence: LiveSequence) -> RowState:
    is_held = sequence.constraint is not None and sequence.constraint.is_binding
    return RowState(sequence.length_tokens, sequence.left_tokens, is_held)
