"""The engine contract in executable form: `check_engine(maker)` runs all of it against any engine.

It knows only `lmx.engines.base`. A maker loads a fresh engine; every check closes the one it made.
A new engine gets its tests by writing a maker.
"""

import pytest

from lmx.engines.base import Choice, PrefillShare, StepResult
from lmx.errors import ContextTooLong, NoFreeSlot
from lmx.protocol.values import Sampling
from tests.conformance.driving import (
    MAX_SEQUENCES,
    MAX_STEPS,
    MEMORY_SLACK_BYTES,
    TEXTS,
    Maker,
    Request,
    add,
    collect,
    greedy,
    opened,
    run,
    run_alone,
    step_times,
)
from tests.conformance.option_checks import OPTION_CHECKS
from tests.conformance.prefix_checks import PREFIX_CHECKS
from tests.conformance.speculation_checks import SPECULATION_CHECKS


def check_engine(maker: Maker) -> None:
    """Run the whole contract.

    Args:
        maker: Takes context tokens and a number of sequences, both at least 2, and loads an
            engine with exactly these.
    """
    for check in CHECKS:
        check(maker)


def check_info(maker: Maker) -> None:
    """The engine has the limits it was asked for, and all its slots are free."""
    with opened(maker, max_sequences=3, context_tokens=64) as (engine, _):
        assert engine.info.context_tokens == 64
        assert engine.info.max_sequences == 3
        assert engine.free_slots == 3


def check_idle_step(maker: Maker) -> None:
    """A step with nothing to do returns an empty list, before and after work."""
    with opened(maker) as (engine, tokenizer):
        assert engine.step() == []
        run(engine, {1: (tokenizer.encode("hello"), greedy(3))})
        assert engine.step() == []


def check_limits(maker: Maker) -> None:
    """Too long a request and one sequence too many are refused and reserve nothing."""
    with opened(maker, context_tokens=64) as (engine, tokenizer):
        ids = (tokenizer.encode("hello") * 64)[:60]
        with pytest.raises(ContextTooLong):
            engine.add([Choice(0, greedy(5))], ids)
        assert engine.free_slots == MAX_SEQUENCES
        for sequence_id in range(MAX_SEQUENCES):
            engine.add([Choice(sequence_id, greedy(4))], ids)
        with pytest.raises(NoFreeSlot):
            engine.add([Choice(99, greedy(4))], ids)
        assert engine.free_slots == 0


def check_max_tokens(maker: Maker) -> None:
    """A sequence ends with exactly `max_tokens` tokens or earlier with an end token."""
    with opened(maker) as (engine, tokenizer):
        for text in TEXTS:
            for limit in (1, 2, 7):
                results = run(engine, {1: (tokenizer.encode(text), greedy(limit))})[1]
                expected = "length" if len(results) == limit else "stop"
                assert len(results) <= limit
                assert results[-1].finish in {expected, "stop"}
                assert all(result.finish is None for result in results[:-1])


def check_slots_come_back(maker: Maker) -> None:
    """A finished sequence frees its slot in the step that reports its end."""
    with opened(maker) as (engine, tokenizer):
        engine.add([Choice(1, greedy(2))], tokenizer.encode("hello"))
        engine.add([Choice(2, greedy(2))], tokenizer.encode("the end"))
        live = 2
        for _ in range(MAX_STEPS):
            live -= sum(result.finish is not None for result in engine.step())
            assert engine.free_slots == MAX_SEQUENCES - live
            if not live:
                return
        pytest.fail("the sequences never ended")


def check_remove(maker: Maker) -> None:
    """Removing frees the slot at once, silences the sequence, and may be repeated."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode("the hen and the heron")
        alone = run(engine, {1: (ids, greedy(8))})[1]
        engine.remove(12345)
        for steps_before in range(5):
            engine.add([Choice(1, greedy(60))], ids)
            step_times(engine, steps_before)
            engine.remove(1)
            engine.remove(1)
            assert engine.free_slots == MAX_SEQUENCES
            assert engine.step() == []
        assert run(engine, {1: (ids, greedy(8))})[1] == alone


def check_number_is_free_after_remove(maker: Maker) -> None:
    """A removed sequence's number can be used again at once, beside a neighbour."""
    with opened(maker) as (engine, tokenizer):
        first, second = tokenizer.encode(TEXTS[0]), tokenizer.encode(TEXTS[2])
        alone = run(engine, {1: (second, greedy(6))})[1]
        engine.add([Choice(7, greedy(40))], first)
        engine.add([Choice(1, greedy(40))], first)
        step_times(engine, 4)
        engine.remove(1)
        assert run(engine, {1: (second, greedy(6))}, until=1)[1] == alone


def check_greedy_is_deterministic(maker: Maker) -> None:
    """At temperature 0 the same prompt gives the same tokens, whatever the seed."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[0])
        samplings = [greedy(12), greedy(12), Sampling(12, temperature=0.0, seed=3)]
        runs = [run(engine, {1: (ids, sampling)})[1] for sampling in samplings]
        assert runs[0] == runs[1] == runs[2]


def check_batch_equals_alone(maker: Maker) -> None:
    """Sequences that start together get the tokens they get alone."""
    with opened(maker) as (engine, tokenizer):
        requests = {i: (tokenizer.encode(text), greedy(10 + i)) for i, text in enumerate(TEXTS)}
        assert run(engine, requests) == run_alone(engine, requests)


def check_join_and_leave(maker: Maker) -> None:
    """Neighbours that join and leave in mid-decode change nobody's tokens."""
    with opened(maker) as (engine, tokenizer):
        requests = {i: (tokenizer.encode(text), greedy(20)) for i, text in enumerate(TEXTS)}
        alone = run_alone(engine, requests)
        found: dict[int, list[StepResult]] = {}
        for sequence_id, (ids, sampling) in requests.items():
            engine.add([Choice(sequence_id, sampling)], ids)
            collect(found, step_times(engine, 3))
        engine.remove(1)
        collect(found, step_times(engine, MAX_STEPS))
        assert all(found[i] == alone[i] for i in requests if i != 1)
        assert found[1] == alone[1][: len(found[1])]


def check_quiesce(maker: Maker) -> None:
    """Waiting for the device between steps changes no token, with and without work."""
    with opened(maker) as (engine, tokenizer):
        engine.quiesce()
        requests = {i: (tokenizer.encode(text), greedy(12)) for i, text in enumerate(TEXTS)}
        expected = run(engine, requests)
        for sequence_id, request in requests.items():
            add(engine, sequence_id, request)
        found: dict[int, list[StepResult]] = {}
        while engine.free_slots < engine.info.max_sequences:
            collect(found, engine.step())
            engine.quiesce()
            engine.quiesce()
        assert found == expected


def check_long_prompt_beside_others(maker: Maker) -> None:
    """A prompt longer than a prefill chunk neither disturbs its neighbours nor is disturbed."""
    with opened(maker) as (engine, tokenizer):
        long = (tokenizer.encode(TEXTS[3]) * 30)[:450]
        short = tokenizer.encode(TEXTS[0])
        requests = {1: (short, greedy(30)), 2: (long, greedy(10)), 3: (short[:2], greedy(30))}
        alone = run_alone(engine, requests)
        assert run(engine, requests) == alone
        add(engine, 1, requests[1])
        add(engine, 2, requests[2])
        found = collect({}, step_times(engine, 1))
        engine.remove(2)
        collect(found, step_times(engine, MAX_STEPS))
        assert found[1] == alone[1]


def check_shares(maker: Maker) -> None:
    """Prompts go on as they are named: a later one can pass, the others stay where they are."""
    with opened(maker) as (engine, tokenizer):
        long = (tokenizer.encode(TEXTS[3]) * 30)[:450]
        requests = {1: (long, greedy(5)), 2: (tokenizer.encode(TEXTS[0]), greedy(5))}
        for sequence_id, request in requests.items():
            add(engine, sequence_id, request)
        before = engine.prefilling()
        assert engine.step([PrefillShare(99, 10)]) == []
        assert engine.prefilling() == before
        assert engine.step([PrefillShare(1, 3)]) == []
        assert engine.prefilling() == {**before, 1: before[1] - 3}
        found: dict[int, list[StepResult]] = {}
        while 2 not in found:
            collect(found, engine.step([PrefillShare(99, 1), PrefillShare(2, 1000)]))
        assert engine.prefilling() == {1: before[1] - 3}
        collect(found, step_times(engine, MAX_STEPS))
        assert found == run_alone(engine, requests)


def check_prefilling_names(maker: Maker) -> None:
    """A prompt whose first choice is removed goes by the next one, and by none when all are."""
    with opened(maker) as (engine, tokenizer):
        long = (tokenizer.encode(TEXTS[3]) * 30)[:450]
        engine.add([Choice(1, greedy(5)), Choice(2, greedy(5))], long)
        assert [1] == list(engine.prefilling())
        engine.remove(1)
        assert [2] == list(engine.prefilling())
        engine.step([PrefillShare(2, engine.chunk_tokens)])
        engine.remove(2)
        assert {} == engine.prefilling()


def check_seeds(maker: Maker) -> None:
    """A seeded request gets the same tokens alone and among three neighbours."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[0])
        for sampling in (
            Sampling(16, temperature=1.0, seed=11),
            Sampling(16, temperature=1.3, top_p=0.8, seed=2**63 + 5),
        ):
            alone = run(engine, {0: (ids, sampling)})[0]
            neighbours: dict[int, Request] = {
                1: (tokenizer.encode(TEXTS[1]), greedy(9)),
                2: (tokenizer.encode(TEXTS[2]), Sampling(30, temperature=0.7, seed=1)),
                3: (tokenizer.encode(TEXTS[3]), Sampling(30, temperature=1.0, top_p=0.5)),
            }
            assert run(engine, {**neighbours, 0: (ids, sampling)})[0] == alone


def check_seeds_differ(maker: Maker) -> None:
    """With a temperature, different seeds give different tokens."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[0])
        texts = {
            tuple(r.token_id for r in run(engine, {0: (ids, sampling)})[0])
            for sampling in (Sampling(12, temperature=1.0, seed=seed) for seed in range(6))
        }
        assert len(texts) > 1


def check_memory(maker: Maker) -> None:
    """Sequences give their memory back, and so does the engine when it is closed."""
    with opened(maker) as (engine, tokenizer):
        before = engine.memory()
        requests = {i: (tokenizer.encode(text), greedy(40)) for i, text in enumerate(TEXTS)}
        run(engine, requests)
        after = engine.memory()
        assert after.active_bytes <= before.active_bytes + MEMORY_SLACK_BYTES
        assert after.peak_bytes >= after.active_bytes
    with opened(maker) as (engine, _):
        assert engine.memory().active_bytes <= before.active_bytes + MEMORY_SLACK_BYTES
        engine.close()


def check_detokenizer(maker: Maker) -> None:
    """Feeding ids one by one and flushing gives back the text that was encoded."""
    with opened(maker) as (_, tokenizer):
        for text in (*TEXTS, " leading space", "Grüße, 世界 👋🏽", "a\nb\tc"):
            detokenizer = tokenizer.new_detokenizer()
            pieces = [detokenizer.feed(token_id) for token_id in tokenizer.encode(text)]
            assert text == "".join([*pieces, detokenizer.flush()])
            assert detokenizer.flush() == ""


CHECKS = (
    check_info,
    check_idle_step,
    check_limits,
    check_max_tokens,
    check_slots_come_back,
    check_remove,
    check_number_is_free_after_remove,
    check_greedy_is_deterministic,
    check_batch_equals_alone,
    check_join_and_leave,
    check_quiesce,
    check_long_prompt_beside_others,
    check_shares,
    check_prefilling_names,
    check_seeds,
    check_seeds_differ,
    check_memory,
    check_detokenizer,
    *OPTION_CHECKS,
    *PREFIX_CHECKS,
    *SPECULATION_CHECKS,
)
