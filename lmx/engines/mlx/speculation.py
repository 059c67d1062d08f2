"""When the lone row of a decode batch checks a draft. Knows steps and their times, not caches.

Plain steps are launched before the one before them is read. A draft continues the last token, so
it needs that token read first; that breaks the rhythm, and so it is done only if the drafter
foresees a gain. Without one a step is launched and read exactly as if there were no drafts.
"""

import time
from collections.abc import Callable, Sequence

from lmx.engines.mlx.batch import DecodeBatch, Launched
from lmx.engines.mlx.sequence import LiveSequence
from lmx.engines.speculation.costs import LADDER, CheckCosts
from lmx.engines.speculation.drafter import Drafter

LONGEST_DRAFT = LADDER[-1]


class Speculation:
    """Drafts for one engine.

    Args:
        clock: Seconds, monotonic.
        is_on: Sequences may get drafts at all.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, is_on: bool = True
    ) -> None:
        self._clock = clock
        self._is_on = is_on
        self._costs = CheckCosts()
        # When the last step was read; None if the device has had something else to do since.
        self._read_at_s: float | None = None

    def watch(self, sequence: LiveSequence, prompt_ids: Sequence[int]) -> None:
        """Give a new sequence a drafter, if it may have drafts.

        Penalties depend on the tokens of the draft itself, so such a sequence gets none.
        """
        if self._is_on and sequence.row.penalties is None:
            sequence.drafter = Drafter(prompt_ids, self._costs)

    def lose_time(self) -> None:
        """The device computes something else: the next step's time says nothing."""
        self._read_at_s = None

    def reads_first(self, launched: Sequence[Launched], lone: DecodeBatch | None) -> bool:
        """Whether what is in flight should be read before the next launch.

        Args:
            launched: What is in flight.
            lone: The batch of the only row, if there is one and nothing else to compute.
        """
        if any(one.drafts for one in launched):
            return True  # what a check gives decides how the cache goes on
        if lone is None or not launched:
            return False
        drafter, limit = lone.sequences[0].drafter, min(lone.draft_limit, LONGEST_DRAFT)
        return limit > 0 and drafter is not None and drafter.foresees(limit)

    def check(self, lone: DecodeBatch | None) -> list[Launched]:
        """Launch the next step of the only row, every token of which was read.

        Returns:
            What was launched; nothing if there is no such row.
        """
        if lone is None:
            return []
        drafter, limit = lone.sequences[0].drafter, min(lone.draft_limit, LONGEST_DRAFT)
        if drafter is None or limit < 0:
            return []
        launched = lone.check(drafter.propose(limit))
        return [] if launched is None else [launched]

    def note_read(self, launched: Sequence[Launched], tokens: int) -> None:
        """Steps that were launched together were read, and gave so many tokens."""
        now_s = self._clock()
        began_at_s, self._read_at_s = self._read_at_s, now_s
        if began_at_s is None or len(launched) != 1:
            return
        sequences, drafts = launched[0].sequences, launched[0].drafts
        if any(sequence is not sequences[0] for sequence in sequences):
            return
        drafter = sequences[0].drafter
        if drafts is None:
            self._costs.note_plain(now_s - began_at_s)
        elif drafter is not None:
            drafter.settle(len(drafts), tokens, now_s - began_at_s)


def settle(launched: Sequence[Launched], token_ids: Sequence[int], lone: DecodeBatch | None) -> int:
    """Let the only row go on with what a check gave, if there was one.

    Args:
        launched: What was read.
        token_ids: What it gave.
        lone: The batch of the only row; `None` if that has left.

    Returns:
        The length of the draft.
    """
    drafts = launched[0].drafts if len(launched) == 1 else None
    if drafts and lone is not None:
        lone.settle(launched[0], token_ids)
    return len(drafts or ())
