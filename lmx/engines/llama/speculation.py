"""When a sequence that runs alone checks a draft, and what that took. Knows passes, not slots.

Nothing is pipelined here: the tokens of a pass are read before the next one is planned. So a check
needs no waiting, and costs only what its further rows do. Tokens are drawn on the host one after
the other and in the same way as ever, so masks and penalties see those before them.
"""

import time
from collections.abc import Callable, Sequence

from lmx.engines.llama.sequence import LiveSequence
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
        self._drafters: dict[int, Drafter] = {}
        # When the last pass was read, and what was the only sequence in it; `None` if others were.
        self._read_at_s = 0.0
        self._lone: LiveSequence | None = None

    def watch(self, sequence: LiveSequence, *, may_speculate: bool) -> None:
        """Give a new sequence a drafter, if it may have drafts."""
        if self._is_on and may_speculate:
            drafter = Drafter(sequence.token_ids, self._costs)
            self._drafters[sequence.sequence_id] = drafter

    def forget(self, sequence_id: int) -> None:
        """It has ended. Unknown ones are ignored."""
        self._drafters.pop(sequence_id, None)

    def append(self, sequence_id: int, token_id: int) -> None:
        """A token of its answer was sampled."""
        if drafter := self._drafters.get(sequence_id):
            drafter.append(token_id)

    def propose(self, live: Sequence[LiveSequence]) -> list[int]:
        """What the next pass should check; empty for a plain one.

        Args:
            live: All sequences. Only one that lacks a single token and is alone gets a draft.
        """
        if len(live) != 1 or live[0].missing != 1:
            return []
        drafter = self._drafters.get(live[0].sequence_id)
        limit = live[0].sampling.max_tokens - live[0].delivered - 1
        if drafter is None or limit < 1:
            return []
        return drafter.propose(min(limit, LONGEST_DRAFT))

    def note_read(self, lone: LiveSequence | None, *, drafted: int, tokens: int) -> None:
        """A pass was read.

        Args:
            lone: The only sequence in it, which lacked one token; `None` if it was another pass.
            drafted: Length of the draft that it checked.
            tokens: That it gave.
        """
        began_at_s, self._read_at_s = self._read_at_s, self._clock()
        was_lone, self._lone = self._lone, lone
        if lone is None or was_lone is not lone:
            return
        drafter = self._drafters.get(lone.sequence_id)
        if not drafted:
            self._costs.note_plain(self._read_at_s - began_at_s)
        elif drafter is not None:
            drafter.settle(drafted, tokens, self._read_at_s - began_at_s)
