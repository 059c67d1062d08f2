"""Part of the engine contract: drafts change when tokens come, not which. See `engine_checks`.

It knows only `lmx.engines.base`. Whether an engine drafts at all is its own affair.
"""

import msgspec

from lmx.engines.base import Choice, Engine, StepResult
from lmx.protocol.values import Sampling
from tests.conformance.driving import Maker, opened

TOKENS = 48
# Ids that every vocabulary of the tests has; few, so that texts repeat.
FEW = {40: 60.0, 41: 60.0, 42: 60.0}


def check_drafts_change_nothing(maker: Maker) -> None:
    """With and without drafts an answer has the same tokens, and says how many were drafted."""
    samplings = [
        Sampling(TOKENS, temperature=0.0, logit_bias=FEW),
        *(Sampling(TOKENS, temperature=0.6, seed=seed, logit_bias=FEW) for seed in range(4)),
        Sampling(TOKENS, temperature=0.6, seed=9, logit_bias=FEW, frequency_penalty=0.2),
        Sampling(TOKENS, temperature=0.6, seed=9, logit_bias=FEW, top_p=0.9, top_logprobs=1),
    ]
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode("the hen and the heron and the hen and the heron and ")
        for sampling in samplings:
            plain = _run(engine, ids, msgspec.structs.replace(sampling, speculate=False))
            found = _run(engine, ids, sampling)
            assert [r.token_id for r in plain] == [r.token_id for r in found]
            assert sum(r.drafted_tokens for r in plain) == 0
            assert sum(r.is_drafted for r in found) <= sum(r.drafted_tokens for r in found)


def check_several_tokens_are_for_one_alone(maker: Maker) -> None:
    """Two sequences beside each other get at most one token each in a step, and the right ones."""
    sampling = Sampling(TOKENS, temperature=0.0, logit_bias=FEW)
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode("on and on")
        expected = [r.token_id for r in _run(engine, ids, sampling)]
        engine.add([Choice(1, sampling)], ids)
        results: list[StepResult] = []
        while len(results) < len(expected) // 3:
            results += engine.step()
        engine.add([Choice(2, sampling)], ids)
        while engine.free_slots < engine.info.max_sequences:
            step = engine.step()
            assert len({r.sequence_id for r in step}) in {1, len(step)} or not step
            results += step
        for number in (1, 2):
            assert expected == [r.token_id for r in results if r.sequence_id == number]


def _run(engine: Engine, ids: list[int], sampling: Sampling) -> list[StepResult]:
    engine.add([Choice(0, sampling)], ids)
    results: list[StepResult] = []
    while engine.free_slots < engine.info.max_sequences:
        results += engine.step()
    return results


SPECULATION_CHECKS = (check_drafts_change_nothing, check_several_tokens_are_for_one_alone)
