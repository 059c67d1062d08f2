"""What every engine's prefix cache keeps to, whatever it keeps: hits change how fast, nothing else.

It knows only `lmx.engines.base`. An engine that keeps nothing says ``off``.
"""

from lmx.engines.base import Choice, Engine, PrefixUse, StepResult, Tokenizer
from lmx.protocol.values import Sampling
from tests.conformance.driving import MAX_STEPS, TEXTS, Maker, greedy, opened, step_times

MINE, YOURS = PrefixUse("mine"), PrefixUse("yours")


def check_repeats_are_skipped(maker: Maker) -> None:
    """The second time all of a prompt but its last token is there, and the answer is the same."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        cold, warm = ask(engine, ids, MINE), ask(engine, ids, MINE)
        assert tokens(cold) == tokens(warm)
        assert 0 == cold[0].cached_tokens
        if is_keeping(engine):
            assert len(ids) - 1 == warm[0].cached_tokens


def check_turns_build_on_each_other(maker: Maker) -> None:
    """What was answered is known when it comes back as part of a longer prompt."""
    with opened(maker) as (engine, tokenizer), opened(maker) as (fresh, _):
        ids, known = long_prompt(tokenizer), 0
        for text in TEXTS[:3]:
            answer = ask(engine, ids, MINE)
            assert tokens(ask(fresh, ids, PrefixUse(text))) == tokens(answer)
            assert known <= answer[0].cached_tokens < len(ids)
            known = len(ids) + len(answer) - 1 if is_keeping(engine) else 0
            ids = [*ids, *tokens(answer), *tokenizer.encode(text)]


def check_salts_are_apart(maker: Maker) -> None:
    """A prompt of one tenant skips nothing for another, who cannot tell that it is there."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        mine = ask(engine, ids, MINE)
        assert 0 == engine.foresee(ids, YOURS).cached_tokens
        assert "full" != engine.foresee(ids, YOURS).reason
        yours = ask(engine, ids, YOURS)
        assert 0 == yours[0].cached_tokens
        assert tokens(mine) == tokens(yours)


def check_foresight(maker: Maker) -> None:
    """What is foreseen for a lone prompt is what is skipped."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        for prompt in (ids, ids, [*ids, *ids[:20]], ids[:-3], [*ids[:90], *ids]):
            foreseen = engine.foresee(prompt, MINE)
            skipped = ask(engine, prompt, MINE)[0].cached_tokens
            assert foreseen.cached_tokens == skipped
            assert foreseen.reason


def check_seeds_hit_or_cold(maker: Maker) -> None:
    """A seeded answer is the same whether its prompt was computed or not."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        sampling = Sampling(12, temperature=1.0, top_p=0.9, seed=77)
        assert tokens(ask(engine, ids, MINE, sampling)) == tokens(ask(engine, ids, MINE, sampling))


def check_together_as_alone(maker: Maker) -> None:
    """Prompts of one beginning that come together answer what they answer alone."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        prompts = [[*ids, *tokenizer.encode(text)[:4]] for text in TEXTS]
        alone = [tokens(ask(engine, p, PrefixUse(str(i)))) for i, p in enumerate(prompts)]
        for index, prompt in enumerate(prompts):
            engine.add([Choice(index, greedy(10))], prompt, prefix=MINE)
        results = step_times(engine, MAX_STEPS)
        together = [
            tokens([r for r in results if r.sequence_id == index]) for index in range(len(prompts))
        ]
        assert alone == together


def check_shrink_forgets(maker: Maker) -> None:
    """What was kept for speed counts as cached, is given back, and cannot be counted on."""
    with opened(maker) as (engine, tokenizer):
        ids = long_prompt(tokenizer)
        before = engine.memory()
        answer = ask(engine, ids, MINE)
        assert engine.memory().active_bytes <= before.active_bytes + (1 << 20)
        engine.shrink()
        assert tokens(answer) == tokens(ask(engine, ids, MINE))


def long_prompt(tokenizer: Tokenizer) -> list[int]:
    """Longer than any engine finds too short to keep."""
    return (tokenizer.encode(TEXTS[0]) * 60)[:150]


def is_keeping(engine: Engine) -> bool:
    """It keeps anything at all."""
    return engine.foresee([1, 2, 3], MINE).reason != "off"


def ask(
    engine: Engine, ids: list[int], prefix: PrefixUse, sampling: Sampling | None = None
) -> list[StepResult]:
    """All results of a lone prompt."""
    engine.add([Choice(1, sampling or greedy(10))], ids, prefix=prefix)
    return step_times(engine, MAX_STEPS)


def tokens(results: list[StepResult]) -> list[int]:
    """Their ids."""
    return [result.token_id for result in results]


PREFIX_CHECKS = (
    check_repeats_are_skipped,
    check_turns_build_on_each_other,
    check_salts_are_apart,
    check_foresight,
    check_seeds_hit_or_cold,
    check_together_as_alone,
    check_shrink_forgets,
)
