"""How long a draft one sequence should check next, if any. Knows token ids and costs, no engine.

Three things decide. How often predictions come true is counted for every token, checked or not: a
prediction that nobody acted on costs nothing and teaches as much. What a check costs is measured.
And an account limits what can be lost: it starts with half a plain step, every token adds one
percent of a step, a check adds the tokens it gave and takes what it cost. A check that is likely
to lose more than there is on the account is not made, so a sequence that never gains pays hardly
more than that. Being off is no state: it is what these rules come to while nothing comes true, and
so is coming back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx.engines.speculation.costs import LADDER, CheckCosts
from lmx.engines.speculation.lookup import Lookup

START_BALANCE = 0.5
EARNED_PER_TOKEN = 0.01
MOST_BALANCE = 3.0
# By how much the worst outcome of a single check may exceed the account.
OVERDRAFT = 1.0
# A draft has to promise more than this much speed, for all of it is estimated.
LEAST_SPEEDUP = 1.05
# Matches of so many tokens and more are counted together, from what they are taken for at first.
MATCH_LEVELS = ((2, 0.2), (3, 0.35), (4, 0.5), (8, 0.65), (16, 0.8))
PRIOR_WEIGHT = 3.0
# A draft model is configured because somebody believes in it.
MODEL_PRIOR = 0.6
# Tokens without a check after which a draft model gets another chance.
DOUBTED_AFTER = 128
# What older outcomes count with each new one.
FADING = 0.97


class Acceptance:
    """How often predictions of one kind come true.

    Args:
        prior: What is believed before any outcome.
    """

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._hits = prior * PRIOR_WEIGHT
        self._tries = PRIOR_WEIGHT

    def doubt(self) -> None:
        """Outcomes are long ago: what was believed at first counts as much as they do."""
        self._hits = (self.share + self._prior) / 2 * PRIOR_WEIGHT
        self._tries = PRIOR_WEIGHT

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self._hits / self._tries

    def note(self, *, is_hit: bool) -> None:
        """One prediction came true, or did not."""
        self._hits = self._hits * FADING + is_hit
        self._tries = self._tries * FADING + 1


def expected_tokens(share: float, drafted: int) -> float:
    """Tokens that a check gives: each one is kept if all before it came true, and one is free."""
    return sum(share**i for i in range(drafted + 1))


class Account:
    """What a sequence may still lose, in plain steps."""

    def __init__(self) -> None:
        self.balance = START_BALANCE

    def earn(self, steps: float) -> None:
        """Add, or with a negative number take."""
        self.balance = min(self.balance + steps, MOST_BALANCE)


class ModelTrust:
    """How long a draft of a draft model one sequence should check next.

    Nothing is learned while no draft is checked, so that after a while it is tried again.

    Args:
        costs: Of checks with such drafts, which it takes time to make.
    """

    def __init__(self, costs: CheckCosts) -> None:
        self._costs = costs
        self._account = Account()
        self._acceptance = Acceptance(MODEL_PRIOR)
        self._since_check = 0

    def append(self) -> None:
        """A token of the answer came."""
        self._account.earn(EARNED_PER_TOKEN)
        self._since_check += 1
        if self._since_check == DOUBTED_AFTER:
            self._since_check = 0
            self._acceptance.doubt()

    def choose(self, limit: int) -> int:
        """How many tokens to draft and check; 0 for a plain step."""
        return choose_length(
            self._acceptance.share, self._costs, limit=limit, balance=self._account.balance
        )

    def settle(self, drafted: int, tokens: int, seconds: float | None) -> None:
        """A check is over; see `Drafter.settle`. The time includes that of the draft model."""
        self._since_check = 0
        for place in range(min(tokens, drafted)):
            self._acceptance.note(is_hit=place < tokens - 1)
        known = self._costs.ratio(drafted)
        cost = known if seconds is None else self._costs.note_check(drafted, seconds)
        self._account.earn(tokens - cost)


class Drafter:
    """Drafts of one sequence.

    Args:
        token_ids: Its prompt.
        costs: Of the device, shared by all sequences.
    """

    def __init__(self, token_ids: Sequence[int], costs: CheckCosts) -> None:
        self.lookup = Lookup(token_ids)
        self._costs = costs
        self._account = Account()
        self._levels = [Acceptance(prior) for _, prior in MATCH_LEVELS]

    @property
    def balance(self) -> float:
        """What may still be lost, in plain steps."""
        return self._account.balance

    def append(self, token_id: int) -> None:
        """A token of the answer came."""
        self.lookup.append(token_id)
        self._account.earn(EARNED_PER_TOKEN)

    def settle(self, drafted: int, tokens: int, seconds: float | None) -> None:
        """A check is over.

        Args:
            drafted: Length of the draft; 0 for a plain step that waited in vain for one.
            tokens: That it gave, at least 1.
            seconds: What it took, or `None` if nobody knows.
        """
        known = self._costs.ratio(drafted)
        cost = known if seconds is None else self._costs.note_check(drafted, seconds)
        self._account.earn(tokens - cost)

    def foresees(self, limit: int) -> bool:
        """Whether it pays to wait for the token that is being computed, for a draft behind it.

        Args:
            limit: Most tokens of that draft.
        """
        self._learn()
        if not self.lookup.predict(1):
            return False
        share = self._share
        wait = self._costs.ratio(0)
        drafted = self._choose(limit)
        if not drafted or (1 - share) * (wait - 1) > self.balance:
            return False
        tokens = 1 - share + share * expected_tokens(share, drafted)
        cost = (1 - share) * wait + share * self._costs.ratio(drafted)
        return tokens >= LEAST_SPEEDUP * cost

    def propose(self, limit: int) -> list[int]:
        """What to check in the next step; empty for a plain one.

        Args:
            limit: Most tokens.
        """
        self._learn()
        if not self.lookup.match_tokens:
            return []
        return self.lookup.predict(self._choose(limit))

    def _learn(self) -> None:
        for match_tokens, is_hit in self.lookup.catch_up():
            self._levels[_level(match_tokens)].note(is_hit=is_hit)

    @property
    def _share(self) -> float:
        return self._levels[_level(self.lookup.match_tokens)].share

    def _choose(self, limit: int) -> int:
        """The length that promises most tokens in the least time; 0 if none pays."""
        return choose_length(self._share, self._costs, limit=limit, balance=self.balance)


@dataclass(slots=True, eq=False)
class Watched:
    """What is known of one sequence's drafts.

    Attributes:
        drafter: Makes them by lookup.
        trust: How far a draft model can be relied on.
        is_models: The check in flight is of a draft model's draft.
    """

    drafter: Drafter
    trust: ModelTrust
    is_models: bool = False

    def append(self, token_id: int) -> None:
        """A token of the answer came."""
        self.drafter.append(token_id)
        self.trust.append()

    def settle(self, drafted: int, tokens: int, seconds: float | None) -> None:
        """A check is over."""
        if self.is_models and drafted:
            self.trust.settle(drafted, tokens, seconds)
        else:
            self.drafter.settle(drafted, tokens, seconds)


def choose_length(share: float, costs: CheckCosts, *, limit: int, balance: float) -> int:
    """How long a draft to check; 0 for none.

    Args:
        share: How often a prediction comes true.
        costs: Of the device.
        limit: Most tokens.
        balance: Plain steps that may be lost.
    """
    if not costs.is_known:
        return 0
    best, needed = 0, LEAST_SPEEDUP
    for drafted in LADDER:
        ratio = costs.ratio(drafted)
        is_too_new = drafted // 2 > costs.longest_tried  # one rung at a time
        is_too_dear = (1 - share) * (ratio - 1) > balance or ratio - 1 > balance + OVERDRAFT
        if drafted > limit or is_too_new or is_too_dear:
            continue
        speedup = expected_tokens(share, drafted) / ratio
        if speedup >= needed:
            best, needed = drafted, speedup * LEAST_SPEEDUP
    return best


def _level(match_tokens: int) -> int:
    return max((i for i, (least, _) in enumerate(MATCH_LEVELS) if match_tokens >= least), default=0)
