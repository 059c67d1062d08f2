"""When the lone row of a decode batch checks a draft. Knows steps and their times, not caches.

Plain steps are launched before the one before them is read. A draft continues the last token, so
it needs that token read first; that breaks the rhythm, and so it is done only if the drafter
foresees a gain. Without one a step is launched and read exactly as if there were no drafts.
"""

import time
from collections.abc import Callable, Sequence

from lmx.engines.mlx.batch import DecodeBatch, Launched
from lmx.engines.mlx.drafting import DraftModel
from lmx.engines.mlx.sequence import LiveSequence
from lmx.engines.speculation.costs import LADDER, CheckCosts
from lmx.engines.speculation.drafter import Drafter, ModelTrust, Watched

LONGEST_DRAFT = LADDER[-1]
# For a shorter rest of an answer a draft model does not begin to read the prompt.
WORTH_CATCHING_UP_TOKENS = 32


class Speculation:
    """Drafts for one engine.

    Args:
        clock: Seconds, monotonic.
        is_on: Sequences may get drafts at all.
        model: Drafts where lookup finds nothing; `None` for none.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        is_on: bool = True,
        model: DraftModel | None = None,
    ) -> None:
        self._clock = clock
        self._is_on = is_on
        self._model = model
        self._costs = CheckCosts()
        self._model_costs = CheckCosts()
        # When the last step was read; None if the device has had something else to do since.
        self._read_at_s: float | None = None

    def watch(self, sequence: LiveSequence, prompt_ids: Sequence[int]) -> None:
        """Let a new sequence have drafts, if it may.

        Penalties depend on the tokens of the draft itself, so such a sequence gets none.
        """
        if self._is_on and sequence.row.penalties is None:
            drafter = Drafter(prompt_ids, self._costs)
            sequence.watched = Watched(drafter, ModelTrust(self._model_costs))

    def lose_time(self) -> None:
        """The device computes something else: the next step's time says nothing."""
        self._read_at_s = None

    def shrink(self) -> None:
        """Give back memory that is only kept for speed."""
        if self._model is not None:
            self._model.forget()

    def release_model(self) -> None:
        """Let go of the draft model's weights; nothing may be drafted afterwards."""
        if self._model is not None:
            self._model.release_model()
        self._model = None

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
        watched, limit = lone.sequences[0].watched, min(lone.draft_limit, LONGEST_DRAFT)
        if watched is None or limit < 1:
            return False
        return watched.drafter.foresees(limit) or self._will_model_draft(watched, lone)

    def check(self, lone: DecodeBatch | None) -> list[Launched]:
        """Launch the next step of the only row, every token of which was read.

        Returns:
            What was launched; nothing if there is no such row.
        """
        watched = None if lone is None else lone.sequences[0].watched
        if lone is None or watched is None or lone.draft_limit < 0:
            return []
        drafts = watched.drafter.propose(min(lone.draft_limit, LONGEST_DRAFT))
        watched.is_models = not drafts
        if not drafts and self._will_model_draft(watched, lone):
            drafts = self._ask_model(watched, lone)
        launched = lone.check(drafts)
        return [] if launched is None else [launched]

    def _will_model_draft(self, watched: Watched, lone: DecodeBatch) -> bool:
        """Whether the draft model should go on; if it only has to catch up first, let it."""
        limit = min(lone.draft_limit, LONGEST_DRAFT)
        token_ids = watched.drafter.lookup.token_ids
        if self._model is None or not watched.trust.choose(limit):
            return False
        if not self._model.has_room(token_ids, LONGEST_DRAFT):
            return False
        if self._model.is_ready(token_ids):
            return True
        if lone.sequences[0].left_tokens >= WORTH_CATCHING_UP_TOKENS:
            self._model.advance(token_ids)
            self.lose_time()
        return False

    def _ask_model(self, watched: Watched, lone: DecodeBatch) -> list[int]:
        count = watched.trust.choose(min(lone.draft_limit, LONGEST_DRAFT))
        if self._model is None or not count:
            return []
        return self._model.draft(watched.drafter.lookup.token_ids, count)

    def note_read(self, launched: Sequence[Launched], tokens: int) -> None:
        """Steps that were launched together were read, and gave so many tokens."""
        now_s = self._clock()
        began_at_s, self._read_at_s = self._read_at_s, now_s
        if began_at_s is None or len(launched) != 1:
            return
        sequences, drafts = launched[0].sequences, launched[0].drafts
        if any(sequence is not sequences[0] for sequence in sequences):
            return
        watched = sequences[0].watched
        if drafts is None:
            self._costs.note_plain(now_s - began_at_s)
            self._model_costs.note_plain(now_s - began_at_s)
        elif watched is not None:
            watched.settle(len(drafts), tokens, now_s - began_at_s)


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
