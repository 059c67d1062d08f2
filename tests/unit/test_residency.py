"""Who leaves to make room: the least recently used, never too many, never anybody in use."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.residency import Resident, choose_victims, is_expired

NOW_S = 1000.0


def idle(name: str, size: int, used_s: float) -> Resident:
    """A model that nobody holds and that came up long ago."""
    return Resident(id=name, bytes=size, last_used_s=used_s, ready_since_s=0.0)


def busy(name: str, size: int, used_s: float) -> Resident:
    """A model that one request holds."""
    return Resident(id=name, bytes=size, last_used_s=used_s, ready_since_s=0.0, holders=1)


def victims(
    residents: list[Resident],
    needed: int,
    *,
    min_residency_s: float = 5.0,
    may_drain_busy: bool = False,
) -> list[str] | None:
    """The choice at `NOW_S`."""
    return choose_victims(
        residents,
        needed,
        now_s=NOW_S,
        min_residency_s=min_residency_s,
        may_drain_busy=may_drain_busy,
    )


@pytest.mark.parametrize(
    ("needed", "expected"),
    [(-5, []), (0, []), (1, ["a"]), (10, ["a"]), (11, ["a", "b"]), (30, ["a", "b", "c"])],
)
def test_the_least_recently_used_leave_first(needed: int, expected: list[str]) -> None:
    """As many as it takes, in the order of their last use, whatever order they come in."""
    residents = [idle("c", 10, 3), idle("a", 10, 1), idle("b", 10, 2)]
    assert expected == victims(residents, needed)


def test_what_cannot_be_done_is_not_begun() -> None:
    """Where all of them would not suffice, none is named."""
    assert victims([idle("a", 10, 1), idle("b", 10, 2)], 21) is None
    assert victims([], 1) is None


def test_nobody_leaves_for_nothing() -> None:
    """Small ones chosen first stay after all when a large one has to go anyway."""
    residents = [idle("a", 5, 1), idle("b", 3, 2), idle("c", 10, 3)]
    assert ["c"] == victims(residents, 10)
    assert ["a", "c"] == victims(residents, 13)
    assert ["a", "b", "c"] == victims(residents, 16)


def test_of_two_unnecessary_ones_the_recently_used_stays() -> None:
    """Where either could stay, the one used last does."""
    assert ["a", "c"] == victims([idle("a", 5, 1), idle("b", 5, 2), idle("c", 10, 3)], 15)


def test_the_pinned_stay() -> None:
    """A pinned model leaves neither when idle nor when busy ones may go."""
    pinned = Resident(id="a", bytes=10, last_used_s=1.0, ready_since_s=0.0, is_pinned=True)
    assert ["b"] == victims([pinned, idle("b", 10, 2)], 10)
    assert victims([pinned, idle("b", 10, 2)], 11, may_drain_busy=True, min_residency_s=0) is None


def test_the_held_stay() -> None:
    """A model that a request holds stays, even when it was used longest ago."""
    assert ["b"] == victims([busy("a", 10, 1), idle("b", 10, 2)], 10)
    assert victims([busy("a", 10, 1), idle("b", 10, 2)], 11) is None


def test_the_busy_go_as_the_last_resort() -> None:
    """With leave to drain, idle ones still go first; busy ones in the order of their use."""
    residents = [busy("a", 10, 1), busy("b", 10, 2), idle("c", 10, 9)]
    assert ["c"] == victims(residents, 10, may_drain_busy=True)
    assert ["c", "a"] == victims(residents, 11, may_drain_busy=True)
    assert ["c", "a", "b"] == victims(residents, 21, may_drain_busy=True)


def test_an_idle_one_stays_where_a_busy_one_must_go_and_suffices() -> None:
    """Unloading an idle model that would not help anyway costs a load for nothing."""
    assert ["b"] == victims([idle("a", 5, 1), busy("b", 50, 2)], 40, may_drain_busy=True)


@pytest.mark.parametrize(("age_s", "leaves"), [(4.9, False), (5.0, True)])
def test_a_fresh_model_stays_a_while(age_s: float, leaves: bool) -> None:  # noqa: FBT001
    """A model younger than the least residency does not leave, however idle."""
    fresh = Resident(id="a", bytes=10, last_used_s=1.0, ready_since_s=NOW_S - age_s)
    assert (["a"] if leaves else None) == victims([fresh], 10, may_drain_busy=True)
    assert ["a"] == victims([fresh], 10, min_residency_s=0.0)


RESIDENTS = st.lists(
    st.builds(
        Resident,
        id=st.just(""),
        bytes=st.integers(0, 20),
        last_used_s=st.floats(990, NOW_S),
        ready_since_s=st.floats(990, NOW_S),
        holders=st.integers(0, 1),
        is_pinned=st.booleans(),
    ),
    max_size=6,
)


@given(RESIDENTS, st.integers(-1, 80), st.booleans())
def test_a_choice_is_legal_sufficient_and_not_too_much(
    drawn: list[Resident],
    needed: int,
    may_drain_busy: bool,  # noqa: FBT001
) -> None:
    """None is chosen only if no legal set suffices; without any one victim too little is free."""
    residents = {
        f"m{i}": Resident(
            id=f"m{i}",
            bytes=r.bytes,
            last_used_s=r.last_used_s,
            ready_since_s=r.ready_since_s,
            holders=r.holders,
            is_pinned=r.is_pinned,
        )
        for i, r in enumerate(drawn)
    }
    legal = [
        r
        for r in residents.values()
        if not r.is_pinned and r.ready_since_s <= NOW_S - 5.0 and (may_drain_busy or r.holders == 0)
    ]
    chosen = victims(list(residents.values()), needed, may_drain_busy=may_drain_busy)
    if chosen is None:
        assert sum(r.bytes for r in legal) < needed
        return
    sizes = [residents[name].bytes for name in chosen]
    assert set(chosen) <= {r.id for r in legal}
    assert sum(sizes) >= needed
    for fewer in combinations(sizes, max(0, len(sizes) - 1)):
        assert not chosen or sum(fewer) < needed
    if any(residents[name].holders for name in chosen):
        assert sum(r.bytes for r in legal if not r.holders) < needed


@pytest.mark.parametrize(
    ("keep_alive_s", "idle_s", "expected"),
    [
        (None, 1e9, False),
        (-1.0, 1e9, False),
        (0.0, 0.0, True),
        (60.0, 59.0, False),
        (60.0, 60.0, True),
    ],
)
def test_the_idle_expire(keep_alive_s: float | None, idle_s: float, expected: bool) -> None:  # noqa: FBT001
    """None and negative keep for ever, 0 not at all, anything else for that long."""
    assert expected is is_expired(NOW_S - idle_s, keep_alive_s=keep_alive_s, now_s=NOW_S)
