"""The lease's decisions: never two holders, everybody in turn, time shared evenly."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.lease_state import DEBT_LIMIT_SLICES, AskBack, Grant, LeaseState, Order
from lmx.errors import FrameError

SLICE_S = 0.05
CLAIMANTS = range(4)


class Claimants:
    """Obedient claimants on a clock that the test moves, who check what they are told.

    Attributes:
        state: The lease they share.
        now_s: The time.
        used_s: How long each held the lease.
    """

    def __init__(self) -> None:
        self.state = LeaseState(SLICE_S)
        self.now_s = 0.0
        self.used_s: dict[int, float] = defaultdict(float)
        self.granted: Counter[int] = Counter()
        self.asked_back: set[int] = set()
        self._holding: int | None = None

    def want(self, claimant: int) -> None:
        self._take(self.state.want(claimant, self.now_s))

    def release(self, claimant: int, *, wants_more: bool) -> None:
        assert claimant == self._holding
        self._holding = None
        self.asked_back.discard(claimant)
        self._take(self.state.release(claimant, self.now_s, wants_more=wants_more))

    def forget(self, claimant: int) -> None:
        if claimant == self._holding:
            self._holding = None
        self.asked_back.discard(claimant)
        self._take(self.state.forget(claimant, self.now_s))

    def run(self, claimant: int, step_s: float, *, slice_s: float | None = None) -> None:
        """Compute whole steps until the slice is over."""
        assert claimant == self._holding
        ends_s = self.now_s + (SLICE_S if slice_s is None else slice_s)
        while self.now_s < ends_s:
            self.now_s += step_s
            self.used_s[claimant] += step_s

    def _take(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Grant):
                assert self._holding is None, "granted while somebody holds it"
                assert 0 < order.slice_s <= SLICE_S
                self._holding = order.claimant
                self.granted[order.claimant] += 1
                if order.is_contended:
                    self.asked_back.add(order.claimant)
            else:
                assert self._holding == order.claimant, "asked back from one who has it not"
                assert order.claimant not in self.asked_back, "asked back twice"
                self.asked_back.add(order.claimant)
        assert self._holding == self.state.holder


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["want", "release", "finish", "forget", "wait"]),
        st.sampled_from(CLAIMANTS),
        st.floats(0, 3),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_whatever_happens_one_holds_it_and_every_wanter_gets_it(
    actions: list[tuple[str, int, float]],
) -> None:
    """Never two holders, no holder without a wish, and nobody waits beyond the debt limit."""
    claimants = Claimants()
    state = claimants.state
    for action, claimant, duration_s in actions:
        claimants.now_s += duration_s
        if action == "want" and claimant != state.holder and claimant not in state.waiting:
            claimants.want(claimant)
        elif action in {"release", "finish"} and claimant == state.holder:
            claimants.release(claimant, wants_more=action == "release")
        elif action == "forget":
            claimants.forget(claimant)
        # Somebody waits only for a holder, and that holder knows.
        assert not state.waiting or state.holder in claimants.asked_back
        assert state.holder not in state.waiting
        assert len(state.waiting) == len(set(state.waiting))
    waited_for = set(state.waiting)
    claimants.granted.clear()
    for _ in range((DEBT_LIMIT_SLICES + 2) * len(CLAIMANTS)):
        if state.holder is not None:
            claimants.run(state.holder, SLICE_S)
            claimants.release(state.holder, wants_more=True)
    assert waited_for <= set(claimants.granted)


@given(st.lists(st.floats(0.001, 0.3), min_size=2, max_size=4))
def test_time_is_shared_evenly_whatever_the_steps(steps_s: list[float]) -> None:
    """Claimants that always have work get the same time within 10 %, over many turns."""
    claimants = Claimants()
    for claimant in range(len(steps_s)):
        claimants.want(claimant)
    while claimants.now_s < 30:
        holder = claimants.state.holder
        assert holder is not None
        claimants.run(holder, steps_s[holder])
        claimants.release(holder, wants_more=True)
    shares = [claimants.used_s[claimant] for claimant in range(len(steps_s))]
    assert max(shares) < 1.1 * min(shares)


def test_one_alone_is_granted_once_and_never_asked() -> None:
    """The first wish is granted at once, uncontended, with a whole slice."""
    state = LeaseState(SLICE_S)
    assert [Grant(1, SLICE_S, is_contended=False)] == state.want(1, 0.0)
    assert (1, None, ()) == (state.holder, state.asked_back_since_s, state.waiting)


def test_the_holder_is_asked_back_once_and_the_ring_goes_round() -> None:
    """Those who wait follow in order of their wishes; who wants more goes to the end."""
    state = LeaseState(SLICE_S)
    state.want(1, 0.0)
    assert [AskBack(1)] == state.want(2, 5.0)
    assert [] == state.want(3, 6.0)
    assert 5.0 == state.asked_back_since_s
    assert [Grant(2, SLICE_S, is_contended=True)] == state.release(1, 6.0, wants_more=True)
    assert [Grant(3, SLICE_S, is_contended=True)] == state.release(2, 6.05, wants_more=False)
    assert (1,) == state.waiting


def test_a_debt_is_limited() -> None:
    """However long a step took, its worker waits for at most `DEBT_LIMIT_SLICES` turns more."""
    state = LeaseState(SLICE_S)
    state.want(1, 0.0)
    state.want(2, 0.0)
    now_s = 1000.0
    state.release(1, now_s, wants_more=True)
    turns = 0
    while state.holder == 2:
        now_s += SLICE_S
        state.release(2, now_s, wants_more=True)
        turns += 1
    assert DEBT_LIMIT_SLICES <= turns <= DEBT_LIMIT_SLICES + 1


def test_time_alone_is_not_charged() -> None:
    """Who computed for an hour while nobody waited owes nothing to the one who comes."""
    state = LeaseState(SLICE_S)
    state.want(1, 0.0)
    state.want(2, 3600.0)
    state.release(1, 3600.001, wants_more=True)
    (order,) = state.release(2, 3600.051, wants_more=True)
    assert Grant(1, SLICE_S, is_contended=True) == order


def test_a_long_step_is_paid_for_and_rest_pays_too() -> None:
    """Four slices in one step cost the next three turns, unless it rested meanwhile."""
    for rest_s, turns_of_other in ((0.0, 3), (1.0, 0)):
        state = LeaseState(SLICE_S)
        state.want(1, 0.0)
        state.want(2, 0.0)
        state.release(1, 4 * SLICE_S - 0.001, wants_more=False)  # 2 holds it
        now_s = 4 * SLICE_S + rest_s
        state.want(1, now_s)
        turns = 0
        while True:
            now_s += SLICE_S
            (order,) = state.release(2, now_s, wants_more=True)
            if order.claimant == 1:
                break
            turns += 1
        # One more for the slice that the other one was in already.
        assert turns_of_other == turns + (rest_s == 0.0)


@pytest.mark.parametrize("holder", [None, 2])
def test_impossible_claims_are_refused_and_change_nothing(holder: int | None) -> None:
    """Wanting twice and releasing what one does not hold are faults of the worker."""
    state = LeaseState(SLICE_S)
    with pytest.raises(FrameError, match="does not hold"):
        state.release(1, 0.0, wants_more=True)
    if holder is not None:
        state.want(holder, 0.0)
    state.want(1, 0.0)
    before = (state.holder, state.waiting)
    with pytest.raises(FrameError, match="twice"):
        state.want(1, 0.0)
    if holder is not None:
        with pytest.raises(FrameError, match="does not hold"):
            state.release(1, 0.0, wants_more=False)
    assert before == (state.holder, state.waiting)


def test_forgetting_hands_on_and_may_be_repeated() -> None:
    """A dead holder's lease goes to the next; one who waits just leaves the line."""
    state = LeaseState(SLICE_S)
    for claimant in (1, 2, 3):
        state.want(claimant, 0.0)
    assert [] == state.forget(2, 0.0)
    assert [Grant(3, SLICE_S, is_contended=False)] == state.forget(1, 0.0)
    assert [] == state.forget(1, 0.0)
    assert [] == state.forget(3, 0.0)
    assert state.holder is None
