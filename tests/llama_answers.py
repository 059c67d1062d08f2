"""Prompts for tiny GGUF models, and whether two answers are the same but for rounding."""

import random
from collections.abc import Callable, Mapping

from lmx.engines.base import Choice, Engine, PrefixUse, StepResult
from lmx.protocol.values import Sampling
from tests.conformance.driving import MAX_STEPS, collect, step_times
from tests.tiny_gguf import TOKENS

Request = tuple[list[int], Sampling]
TIE = 1e-3


def prompt(seed: int, length: int) -> list[int]:
    """Ids without a pattern, none of them special."""
    return [3 + (seed * 97 + i * i * 7 + i * 31) % (len(TOKENS) - 3) for i in range(length)]


def tokens(results: list[StepResult]) -> list[int]:
    """Only the ids."""
    return [result.token_id for result in results]


def make_request(rng: random.Random, number: int) -> Request:
    """A prompt that begins like one of three, up to some point, and an answer of some length."""
    ids = prompt(rng.randrange(3), rng.choice([64, 100, 100, 130, 170]))
    ids += prompt(30 + number, rng.randrange(1, 30))
    sampling = Sampling(
        rng.randrange(1, 50), temperature=0.0, seed=number, ignore_eos=True, top_logprobs=2
    )
    return ids, sampling


def scored(engine: Engine, number: int, request: Request) -> list[StepResult]:
    """The answer to a prompt that shares nothing with others."""
    ids, sampling = request
    engine.add([Choice(1, sampling)], ids, prefix=PrefixUse(str(number)))
    return step_times(engine, MAX_STEPS)


def drive(
    engine: Engine,
    requests: Mapping[int, Request],
    rng: random.Random,
    *,
    between: Callable[[], object],
) -> tuple[dict[int, list[StepResult]], set[int]]:
    """Let requests come and go by chance; their results, and who was cancelled.

    Args:
        engine: Has nothing else to do.
        requests: In order of arrival.
        rng: Decides.
        between: Called after each step.
    """
    found: dict[int, list[StepResult]] = {}
    gone: set[int] = set()
    waiting = list(requests)
    for _ in range(MAX_STEPS):
        if not waiting and engine.free_slots == engine.info.max_sequences:
            break
        if waiting and engine.free_slots and rng.random() < 0.5:
            number = waiting.pop(0)
            ids, sampling = requests[number]
            use = PrefixUse(rng.choice(["", "other"]), boundaries=(64, 100))
            engine.add([Choice(number, sampling)], ids, prefix=use)
        if rng.random() < 0.02 and found:
            gone.add(max(found))
            engine.remove(max(found))
        collect(found, engine.step())
        between()
    return found, gone


def count_equal(expected: list[StepResult], results: list[StepResult]) -> int:
    """How many tokens and their log-probabilities agree, up to where two tokens were as likely.

    Half-precision keys and values, added up in another order, move a log-probability by some
    hundred-thousandths; another prefix would move it by some hundredths.
    """
    for position, (one, two) in enumerate(zip(expected, results, strict=False)):
        assert one.logprobs is not None
        assert two.logprobs is not None
        (_, best), (_, second) = one.logprobs.top
        if one.token_id != two.token_id:
            assert best - second < TIE
            return position
        assert abs(one.logprobs.logprob - two.logprobs.logprob) < TIE
    return len(results)
