"""The ledger refuses what does not fit, says why in numbers, and forgets nothing."""

import pytest

from lmx.daemon.ledger import Demand, Ledger
from lmx.errors import DoesNotFit

GB = 10**9


def gigabytes(weights: float, kv_cache: float = 0, transient: float = 0) -> Demand:
    """A demand in 10^9 bytes."""
    return Demand(
        weights=round(weights * GB),
        kv_cache=round(kv_cache * GB),
        transient=round(transient * GB),
    )


def test_what_is_reserved_is_not_free() -> None:
    """Reservations add up, and the rest of the budget is free."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=30, kv_cache=5, transient=1))
    ledger.reserve("b", Demand(weights=20))
    assert (100, 56, 44, 0) == (ledger.budget, ledger.reserved, ledger.free, ledger.overdrawn)
    assert ["a", "b"] == ledger.owners
    assert (36, 20) == (ledger.bytes_of("a"), ledger.bytes_of("b"))


def test_the_last_byte_can_be_reserved_and_no_more() -> None:
    """A demand of exactly what is free fits; one byte more does not, and changes nothing."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=60))
    with pytest.raises(DoesNotFit):
        ledger.reserve("b", Demand(weights=30, kv_cache=10, transient=1))
    assert (["a"], 60) == (ledger.owners, ledger.reserved)
    ledger.reserve("b", Demand(weights=30, kv_cache=10))
    assert (100, 0) == (ledger.reserved, ledger.free)


def test_an_owner_reserves_once() -> None:
    """A second reservation under one name would hide the first; it is refused whole."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=60))
    with pytest.raises(ValueError, match="a has a reservation"):
        ledger.reserve("a", Demand(weights=1))
    assert 60 == ledger.bytes_of("a")


def test_release_gives_back_exactly_once() -> None:
    """The first release returns all that was reserved, every other one and a stranger's 0."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=60, kv_cache=10, transient=5))
    ledger.reserve("b", Demand(weights=1))
    assert [75, 0, 0] == [ledger.release("a"), ledger.release("a"), ledger.release("stranger")]
    assert (["b"], 1, 99) == (ledger.owners, ledger.reserved, ledger.free)
    assert 0 == ledger.bytes_of("a")


def test_a_settled_load_keeps_its_cache() -> None:
    """What was measured replaces weights and work space; the KV cache stays reserved."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=60, kv_cache=10, transient=5))
    assert 0 == ledger.settle("a", 50)
    assert (60, 40) == (ledger.bytes_of("a"), ledger.free)
    assert 0 == ledger.settle("a", 90)
    assert (100, 0, 0) == (ledger.bytes_of("a"), ledger.free, ledger.overdrawn)


def test_settling_a_stranger_is_an_error() -> None:
    """Nobody gets a reservation by settling."""
    ledger = Ledger(100)
    with pytest.raises(KeyError):
        ledger.settle("a", 1)
    assert [] == ledger.owners


def test_a_settlement_past_the_budget_is_overdrawn() -> None:
    """The excess stands apart; what others release pays it before anything is free again."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=50, kv_cache=10))
    ledger.reserve("b", Demand(weights=30))
    assert 15 == ledger.settle("a", 75)
    assert (100, 15, -15) == (ledger.reserved, ledger.overdrawn, ledger.free)
    with pytest.raises(DoesNotFit):
        ledger.reserve("c", Demand(weights=0))
    assert 30 == ledger.release("b")
    assert (85, 0, 15) == (ledger.reserved, ledger.overdrawn, ledger.free)
    assert 85 == ledger.release("a")


def test_a_smaller_budget_takes_from_nobody() -> None:
    """What is in use stays in use and counts as overdrawn until the budget grows again."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=80))
    assert 30 == ledger.set_budget(50)
    assert (50, 30, 80) == (ledger.reserved, ledger.overdrawn, ledger.bytes_of("a"))
    assert 0 == ledger.set_budget(90)
    assert (80, 0, 10) == (ledger.reserved, ledger.overdrawn, ledger.free)


@pytest.mark.parametrize("parts", [(-1, 0, 0), (5, -1, 0), (5, 0, -1)])
def test_bytes_are_never_negative(parts: tuple[int, int, int]) -> None:
    """A negative part would make room out of nothing."""
    weights, kv_cache, transient = parts
    with pytest.raises(ValueError, match="negative"):
        Demand(weights=weights, kv_cache=kv_cache, transient=transient)


def test_the_measure_and_the_budget_are_never_negative() -> None:
    """Neither can a settlement or a budget be, and a refused one changes nothing."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=60))
    with pytest.raises(ValueError, match="negative"):
        ledger.settle("a", -1)
    with pytest.raises(ValueError, match="budget"):
        ledger.set_budget(-1)
    with pytest.raises(ValueError, match="budget"):
        Ledger(-1)
    assert (100, 60) == (ledger.budget, ledger.reserved)


def test_the_arithmetic_is_for_a_person() -> None:
    """A refusal holds what is needed, part by part, the budget, who has it, and the rest."""
    ledger = Ledger(90 * GB)
    ledger.reserve("a", gigabytes(38.1, 2))
    ledger.reserve("b", gigabytes(35))
    with pytest.raises(DoesNotFit) as caught:
        ledger.reserve("c", gigabytes(15.2, 2, 0.8))
    assert (
        "needs 18.0 GB (weights 15.2, cache 2.0, work space 0.8); "
        "budget 90.0 GB; in use: a 40.1, b 35.0; free 14.9"
    ) == caught.value.message


def test_an_empty_ledger_explains_itself() -> None:
    """With nobody in it, nothing is in use."""
    assert (
        "needs 2.0 GB (weights 2.0, cache 0.0, work space 0.0); "
        "budget 1.0 GB; in use: nothing; free 1.0"
    ) == Ledger(GB).explain(gigabytes(2))


def test_an_overdrawn_ledger_says_so() -> None:
    """Instead of a negative rest, the person reads by how much too much is in use."""
    ledger = Ledger(10 * GB)
    ledger.reserve("a", gigabytes(9))
    ledger.settle("a", round(10.25 * GB))
    assert ledger.explain(gigabytes(1)).endswith("in use: a 10.3; overdrawn by 0.3")


def test_what_does_not_fit_does_not_look_as_if_it_did() -> None:
    """A single missing byte shows: needs are rounded up, what is free is rounded down."""
    ledger = Ledger(15 * GB)
    with pytest.raises(DoesNotFit, match=r"needs 15\.1 GB .* free 15\.0$"):
        ledger.reserve("a", Demand(weights=15 * GB + 1))


def test_a_wish_is_granted_as_far_as_there_is_room() -> None:
    """What is free is granted, and never more than was wished for."""
    ledger = Ledger(100)
    assert 30 == ledger.reserve("a", Demand(weights=40, prefix_cache=30))
    assert 10 == ledger.reserve("b", Demand(weights=20, prefix_cache=30))
    assert 0 == ledger.grant_of("stranger")
    assert (100, 0, 0) == (ledger.reserved, ledger.free, ledger.overdrawn)
    assert (70, 30) == (ledger.bytes_of("a"), ledger.bytes_of("b"))
    assert 70 == ledger.release("a")
    assert 70 == ledger.free


def test_grants_are_taken_back_for_whoever_needs_the_room() -> None:
    """The largest first, no more than needed, and in the end all of them."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=10, prefix_cache=40))
    ledger.reserve("b", Demand(weights=10, prefix_cache=20))
    assert [] == ledger.take_back(20)
    assert ["a"] == ledger.take_back(50)
    assert (10, 20, 50) == (ledger.grant_of("a"), ledger.grant_of("b"), ledger.free)
    assert ["b", "a"] == ledger.take_back(200)
    assert (0, 0, 80) == (ledger.grant_of("a"), ledger.grant_of("b"), ledger.free)


def test_a_grant_is_nobodys_reason_to_be_overdrawn() -> None:
    """A budget that shrinks into the grants is made good by cutting them."""
    ledger = Ledger(100)
    ledger.reserve("a", Demand(weights=40, prefix_cache=40))
    assert 0 == ledger.set_budget(60)
    assert (-20, 60) == (ledger.free, ledger.reserved)
    assert ["a"] == ledger.take_back(0)
    assert (0, 20) == (ledger.free, ledger.grant_of("a"))
