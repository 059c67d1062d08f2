"""Drafts are checked while that pays: on a simulated device no text becomes slower by 2 %."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from lmx.engines.speculation.costs import FORGOTTEN_AFTER, LADDER, CheckCosts
from lmx.engines.speculation.drafter import START_BALANCE, Drafter, choose_length

PLAIN_S = 0.01


class Device(NamedTuple):
    """What steps cost, in plain steps."""

    base: float
    per_token: float
    wait: float

    def check_s(self, drafted: int) -> float:
        """A checking step."""
        return PLAIN_S * (self.base + self.per_token * drafted)


CHEAP = Device(1.02, 0.01, 1.02)
MIDDLING = Device(1.2, 0.06, 1.1)
DEAR = Device(1.6, 0.3, 1.5)
ABSURD = Device(2.5, 0.6, 2.0)
DEVICES = [CHEAP, MIDDLING, DEAR, ABSURD]


def simulate(
    prompt: list[int], answer: list[int], device: Device, costs: CheckCosts
) -> tuple[float, int]:
    """Seconds and steps of an answer, pipelined and checked as the MLX engine does it."""
    drafter = Drafter(prompt, costs)
    done, seconds, steps = 0, 0.0, 0
    is_read = False  # whether every token is known before the next launch
    while done < len(answer):
        limit = len(answer) - done - 1
        draft: list[int] = []
        if is_read or (limit > 1 and drafter.foresees(limit - 1)):
            if not is_read:
                seconds, steps, done = seconds + PLAIN_S, steps + 1, done + 1
                drafter.append(answer[done - 1])
            draft = drafter.propose(len(answer) - done - 1)
        elif not is_read:
            costs.note_plain(PLAIN_S)
            seconds, steps, done = seconds + PLAIN_S, steps + 1, done + 1
            drafter.append(answer[done - 1])
            continue
        if done == len(answer):
            break
        right = 0
        while right < len(draft) and draft[right] == answer[done + right]:
            right += 1
        took = device.check_s(len(draft)) if draft else PLAIN_S * device.wait
        drafter.settle(len(draft), right + 1, took)
        for token in answer[done : done + right + 1]:
            drafter.append(token)
        seconds, steps, done = seconds + took, steps + 1, done + right + 1
        is_read = bool(draft)
    return seconds, steps


def copied(rng: random.Random, prompt: list[int], count: int) -> list[int]:
    """The prompt over and over."""
    return (prompt * (count // len(prompt) + 1))[:count]


def fresh(rng: random.Random, prompt: list[int], count: int) -> list[int]:
    """Never the same pair twice."""
    return list(range(10_000, 10_000 + count))


def babbled(rng: random.Random, prompt: list[int], count: int) -> list[int]:
    """Few words in any order: matches everywhere, and hardly any holds."""
    return [rng.randrange(6) for _ in range(count)]


def mocking(rng: random.Random, prompt: list[int], count: int) -> list[int]:
    """Pieces of the prompt that break off as soon as they look like a copy."""
    found: list[int] = []
    while len(found) < count:
        start = rng.randrange(len(prompt) - 12)
        found += prompt[start : start + rng.randrange(2, 9)]
        found.append(20_000 + rng.randrange(10_000))
    return found[:count]


def mixed(rng: random.Random, prompt: list[int], count: int) -> list[int]:
    """Own words and long quotations."""
    found: list[int] = []
    while len(found) < count:
        start = rng.randrange(len(prompt) - 60)
        found += [rng.randrange(30_000, 40_000) for _ in range(30)]
        found += prompt[start : start + 50]
    return found[:count]


Writer = Callable[[random.Random, list[int], int], list[int]]
WRITERS: list[Writer] = [copied, fresh, babbled, mocking, mixed]


def prompts() -> Iterator[tuple[random.Random, list[int]]]:
    """Texts of 300 words, always the same."""
    for seed in range(6):
        rng = random.Random(seed)  # noqa: S311  # a test's own dice
        yield rng, [rng.randrange(2000) for _ in range(300)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("write", WRITERS)
def test_never_slower(device: Device, write: Writer) -> None:
    """Once costs are known, every text takes at most 2 % longer than without drafts."""
    costs = CheckCosts()
    for rng, prompt in prompts():  # what learning the costs takes is paid once for all texts
        simulate(prompt, write(rng, prompt, 200), device, costs)
    for rng, prompt in prompts():
        answer = write(rng, prompt, 400)
        seconds, _ = simulate(prompt, answer, device, costs)
        assert seconds <= len(answer) * PLAIN_S / 0.98


@pytest.mark.parametrize("device", DEVICES)
def test_learning_the_costs_is_cheap(device: Device) -> None:
    """Also the very first text, of the most misleading kind, loses only some steps."""
    for rng, prompt in prompts():
        answer = mocking(rng, prompt, 400)
        seconds, _ = simulate(prompt, answer, device, CheckCosts())
        assert seconds <= (len(answer) * 1.02 + 3 * device.check_s(4) / PLAIN_S) * PLAIN_S


@pytest.mark.parametrize("device", [CHEAP, MIDDLING])
def test_copies_are_fast(device: Device) -> None:
    """Where checking is cheap, a copied text takes less than half the time and a third of steps."""
    costs = CheckCosts()
    for rng, prompt in prompts():
        answer = copied(rng, prompt, 300)
        seconds, steps = simulate(prompt, answer, device, costs)
    assert seconds < len(answer) * PLAIN_S / 2
    assert steps < len(answer) / 3


def test_new_text_is_never_waited_for() -> None:
    """Where nothing repeats, every step is a plain one."""
    costs = CheckCosts()
    for rng, prompt in prompts():
        assert 400 * PLAIN_S == pytest.approx(
            simulate(prompt, fresh(rng, prompt, 400), ABSURD, costs)[0]
        )


def test_it_comes_back() -> None:
    """A text that misleads for long and then copies is fast in the end."""
    rng, prompt = next(prompts())
    costs = CheckCosts()
    start, rest = mocking(rng, prompt, 400), copied(rng, prompt, 400)
    alone, _ = simulate(prompt, start, CHEAP, costs)
    both, _ = simulate(prompt, start + rest, CHEAP, costs)
    assert both - alone < len(rest) * PLAIN_S / 1.8


def test_nothing_is_risked_before_costs_are_known() -> None:
    """Without a measured plain step there is no draft."""
    assert 0 == choose_length(0.99, CheckCosts(), limit=16, balance=4.0)


def known() -> CheckCosts:
    """Costs with measured plain steps."""
    costs = CheckCosts()
    for _ in range(9):
        costs.note_plain(PLAIN_S)
    costs.note_check(16, PLAIN_S)
    return costs


def test_the_length_follows_the_share() -> None:
    """The surer the predictions, the longer the draft, up to the limit."""
    lengths = [choose_length(s, known(), limit=16, balance=4.0) for s in (0.05, 0.4, 0.7, 0.97)]
    assert sorted(lengths) == lengths
    assert (0, 15) == (lengths[0], lengths[-1])
    assert 3 == choose_length(0.97, known(), limit=6, balance=4.0)


def test_nothing_is_checked_on_an_empty_account() -> None:
    """What cannot be lost is not risked."""
    costs = known()
    for drafted in LADDER:
        for _ in range(9):
            costs.note_check(drafted, 2 * PLAIN_S)
    assert 0 == choose_length(0.6, costs, limit=16, balance=0.1)
    assert 0 < choose_length(0.8, costs, limit=16, balance=START_BALANCE)


def test_the_first_measurement_does_not_count() -> None:
    """It may have compiled kernels."""
    costs = known()
    before = costs.ratio(4)
    costs.note_check(4, 100 * PLAIN_S)
    assert before == costs.ratio(4)
    costs.note_check(4, 3 * PLAIN_S)
    assert before < costs.ratio(4) < 3


def test_what_was_not_measured_is_between_its_neighbours() -> None:
    """That long drafts are dear does not make short ones as dear."""
    costs = CheckCosts()
    for _ in range(9):
        costs.note_plain(PLAIN_S)
    for _ in range(10):
        costs.note_check(31, 18 * PLAIN_S)
    ratios = [costs.ratio(drafted) for drafted in LADDER]
    assert sorted(ratios) == ratios
    assert ratios[0] < 2 < ratios[2] < 6 < ratios[-1]
    assert 7 >= choose_length(0.9, costs, limit=31, balance=3.0) > 0


def test_longer_drafts_bound_shorter_ones() -> None:
    """What 8 tokens cost, 2 cannot exceed."""
    costs = known()
    for _ in range(10):
        costs.note_check(8, 1.5 * PLAIN_S)
        costs.note_check(2, 9 * PLAIN_S)
    assert costs.ratio(2) <= costs.ratio(8) < 1.6
    assert costs.ratio(16) > costs.ratio(8)


def test_high_costs_are_forgotten() -> None:
    """After long without a check they are measured afresh."""
    costs = known()
    for _ in range(10):
        costs.note_check(2, 9 * PLAIN_S)
    assert costs.ratio(2) > 5
    for _ in range(9 * FORGOTTEN_AFTER):
        costs.note_plain(PLAIN_S)
    assert costs.ratio(2) < 1.5
