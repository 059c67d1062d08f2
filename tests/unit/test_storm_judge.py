"""What the kill storm counts as a violation; a judge that lets everything pass proves nothing."""

from typing import get_args

import pytest

from scripts.storm.clients import Ending, Outcome
from scripts.storm.endurance import Endurance, Sample
from scripts.storm.faults import HOUSE, Kind
from scripts.storm.judge import Fault, judge_faults, judge_outcome
from scripts.storm.plan import plan_storm
from scripts.storm.report import Books, StormResult

MODELS = {"fake": False, "mlx": True, "gguf": True}


def crash(*, at_s: float = 10.0, recovered_s: float = 11.0) -> Fault:
    """A crash of the model `m` whose next load took half a second."""
    return Fault("m", "SIGKILL", "decoding", 7, at_s, recovered_s=recovered_s, load_s=0.5)


def ended(
    at_s: float, *, ending: Ending = "failed", code: str = "worker-broken", began_s: float = 9.0
) -> Outcome:
    """A request of the model `m`."""
    return Outcome(
        "m", is_streamed=True, began_s=began_s, ended_s=at_s, status=200, ending=ending, code=code
    )


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (ended(10.2), ""),
        (ended(10.2, ending="completed", code=""), ""),
        (ended(10.2, ending="broken", code=""), "no terminal word"),
        (ended(9.9), "not hit"),
        (ended(12.5, began_s=11.5), "not hit"),
        (ended(10.2, code="internal-error"), "internal-error"),
        (ended(10.2, code="model_unstable"), "model_unstable"),
        (ended(11.5), "late"),
    ],
)
def test_a_request_may_fail_only_when_hit_in_time_and_by_name(outcome: Outcome, words: str) -> None:
    """A crash at 10 s that was over at 11 s, and what each end of a request is called."""
    verdict = judge_outcome(outcome, [crash()])
    assert words in verdict.violation
    assert bool(words) == bool(verdict.violation)


def test_a_barred_model_may_say_so_at_any_time() -> None:
    """A request that waited through a quarantine is told of it, however late."""
    fault = crash()
    fault.was_barred = True
    assert not judge_outcome(ended(10.9, code="model_unstable"), [fault]).violation


def test_a_hang_may_stay_unknown_for_the_stall_limit() -> None:
    """The delay counts from the limit on."""
    fault = Fault("m", "SIGSTOP", "decoding", 7, 10.0, silence_s=2.0, recovered_s=15.0)
    assert not judge_outcome(ended(12.9), [fault]).violation
    assert "late" in judge_outcome(ended(13.1), [fault]).violation


def test_a_model_has_its_load_time_and_a_second_to_come_back() -> None:
    """Half a second of load and a second of slack; never is worse than late."""
    assert [] == judge_faults([crash(recovered_s=11.4)])
    assert "came back 1.10 s after" in judge_faults([crash(recovered_s=11.6)])[0]
    assert "never came back" in judge_faults([crash(recovered_s=0.0)])[0]


def test_the_books_must_balance_and_agree_with_the_clients() -> None:
    """Each of three lies of the daemon is noticed."""
    outcomes = [ended(9.5, ending="completed", code="")]

    def violations(books: Books | None) -> int:
        return len(StormResult(outcomes, [], 1.0, 0, books, 0, 0).violations())

    assert 0 == violations(Books(1, 1, 0, 0, 0))
    assert 1 == violations(Books(2, 1, 0, 0, 1))
    assert 1 == violations(Books(2, 2, 0, 0, 0))
    assert 1 == violations(None)


@pytest.mark.parametrize("faults", [30, 1000])
def test_a_plan_has_as_many_faults_as_asked_for_and_every_kind(faults: int) -> None:
    """Same seed, same plan; a load is struck only after something else."""
    plan = plan_storm(MODELS, faults=faults, seed=1, has_garbage=True)
    assert plan == plan_storm(MODELS, faults=faults, seed=1, has_garbage=True)
    assert faults == sum(map(len, plan.values()))
    assert {planned.kind for planned in plan[""]} == set(HOUSE)
    kinds = {planned.kind for faults_of_one in plan.values() for planned in faults_of_one}
    assert set(get_args(Kind)) == kinds
    for name in MODELS:
        assert plan[name][0].phase != "loading"


def test_growth_is_a_violation() -> None:
    """One descriptor more at the end than at the beginning is one too many."""
    flat = [Sample(15, 3, 27, 56.0, 1)] * 6
    grown = [Sample(16, 3, 27, 56.0, 1)] * 2
    assert [] == Endurance("cycles", 8, flat + flat[:2]).violations()
    assert ["cycles: descriptors went from 15 to 16"] == Endurance(
        "cycles", 8, flat + grown
    ).violations()
