"""Which rows should be decoded together. Pure: lengths and costs in, proposals out.

Rows are parted where a step should take less for it, by enough to pay for copying their caches.
Where a size of batch is so slow that more tokens come out of a smaller one, rows take turns.
Whether a proposal keeps its promise is for the caller to measure.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lmx.engines.mlx.costs import PassShape, StepCosts

Groups = list[list[int]]

# Rows are not moved for less than this share of a step.
LEAST_GAIN = 0.1
# Nor is a row made to wait for its turn for less than this share of tokens, and as many standard
# errors of what was measured.
LEAST_TURN_GAIN = 0.15
DOUBT = 2
# Steps of one turn. Swapping rows copies caches; a row that waits shows nothing for so long.
TURN_STEPS = 8
# A move reads and writes what a step only reads, and then filters what stays.
COPIES_PER_MOVE = 3
# Steps over which a move is to pay, when answers might run longer.
LONGEST_HORIZON_STEPS, SHORTEST_HORIZON_STEPS = 128, 8


class RowState(NamedTuple):
    """A row as far as its place is concerned.

    Attributes:
        length_tokens: What attention goes over.
        left_tokens: Most steps it still takes part in.
        is_held: It cannot be launched before its last token was read.
    """

    length_tokens: int
    left_tokens: int
    is_held: bool = False


class BatchShape(NamedTuple):
    """How to step the rows.

    Attributes:
        groups: Every row once, by its number.
        width: Rows of one step, if they take turns; the groups do not matter then.
    """

    groups: Groups
    width: int | None = None


class Shaper:
    """Decides for one set of rows.

    Args:
        costs: As far as they are known.
        rows: All that are decoded.
        stall_s: What the device is idle when every group waits for the host.
    """

    def __init__(self, costs: StepCosts, rows: Sequence[RowState], *, stall_s: float = 0) -> None:
        self._costs = costs
        self._rows = rows
        self._stall_s = stall_s
        longest = LONGEST_HORIZON_STEPS
        left = sum(min(row.left_tokens, 2 * longest) for row in rows) / (2 * max(1, len(rows)))
        self._horizon_steps = max(left, SHORTEST_HORIZON_STEPS)

    def place(self, current: Groups) -> int:
        """The group that the rows of the last one, who are new, should join.

        Args:
            current: Two at least.
        """
        *others, newest = current

        def cost(index: int) -> float:
            joined = [*others[:index], others[index] + newest, *others[index + 1 :]]
            return self._total(joined, current)

        return min(range(len(others)), key=cost)

    def improve(self, current: Groups, *, takes_turns: bool = False) -> BatchShape | None:
        """A shape that seems to pay, or `None` if the present one does as well.

        Args:
            current: How the rows are now; if they take turns, those who wait are the last group.
            takes_turns: They do.
        """
        best = min(self._candidates(), key=lambda groups: self._total(groups, current))
        width = self._choose_width(best)
        if width is not None:
            has_it = takes_turns and width == len(self._rows) - len(current[-1])
            return None if has_it else BatchShape(best, width)
        if takes_turns:
            return BatchShape(best)
        if self._total(best, current) > (1 - LEAST_GAIN) * self._total(current, current):
            return None
        return BatchShape(best)

    def step_seconds(self, groups: Groups) -> float:
        """What stepping all groups once takes."""
        is_stalled = all(any(self._rows[row].is_held for row in group) for group in groups)
        passes = sum(self._costs.predict(self._shape(group)) for group in groups)
        return passes + (self._stall_s if is_stalled else 0)

    def _candidates(self) -> list[Groups]:
        everyone = list(range(len(self._rows)))
        held = [row for row in everyone if self._rows[row].is_held]
        found = [[everyone], self._cheapest(everyone)]
        if held and len(held) < len(everyone):
            free = [row for row in everyone if not self._rows[row].is_held]
            found.append(self._cheapest(held) + self._cheapest(free))
        return found

    def _cheapest(self, rows: list[int]) -> Groups:
        """The cheapest way to part rows.

        Of all ways with the same sizes, neighbours in length together pad least. So it is enough
        to know the cheapest way to part the shortest n rows, for every n.
        """
        ordered = sorted(rows, key=lambda row: self._rows[row].length_tokens)
        seconds, starts = [0.0], [0]
        for end in range(1, len(ordered) + 1):
            longest = self._rows[ordered[end - 1]].length_tokens
            options = [
                (seconds[start] + self._costs.predict(PassShape(n, n * longest)), start)
                for start, n in ((start, end - start) for start in range(end))
            ]
            best, start = min(options)
            seconds.append(best)
            starts.append(start)
        groups: Groups = []
        end = len(ordered)
        while end:
            groups.append(ordered[starts[end] : end])
            end = starts[end]
        return groups

    def _total(self, groups: Groups, current: Groups) -> float:
        """Seconds until the answers end, about, moves included."""
        kept = {frozenset(group) for group in current}
        moved = [group for group in groups if frozenset(group) not in kept]
        copied_tokens = sum(self._shape(group).padded_tokens for group in moved)
        moving = COPIES_PER_MOVE * self._costs.slope * copied_tokens
        return self.step_seconds(groups) * self._horizon_steps + moving

    def _choose_width(self, groups: Groups) -> int | None:
        """How many rows to step at a time, if that gives more tokens than stepping all."""
        if not all(self._costs.knows(len(group)) for group in groups):
            return None
        doubt = DOUBT * sum(self._costs.error(len(group)) for group in groups)
        seconds = self.step_seconds(groups) - doubt
        if seconds <= 0:
            return None
        best = None
        rate = len(self._rows) / seconds * (1 + LEAST_TURN_GAIN)
        longest = max(row.length_tokens for row in self._rows)
        for width in filter(self._costs.knows, range(1, len(self._rows))):
            shape = PassShape(width, width * longest)
            swap = COPIES_PER_MOVE * self._costs.slope * shape.padded_tokens / TURN_STEPS
            seconds = self._costs.predict(shape) + swap + DOUBT * self._costs.error(width)
            if width > rate * seconds:
                best, rate = width, width / seconds
        return best

    def _shape(self, group: list[int]) -> PassShape:
        longest = max(self._rows[row].length_tokens for row in group)
        return PassShape(len(group), len(group) * longest)
