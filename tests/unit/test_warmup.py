"""What an engine does before its first request."""

from lmx.engines.base import SHARES_FREELY
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.warmup import (
    COMPANY_STAYS,
    CPU_SAMPLES,
    GPU_SAMPLES,
    LONGEST_SAMPLE_S,
    sample_passes,
    warm_up,
    warm_up_company,
    warm_up_passes,
)
from lmx.protocol.values import ModelInfo, Sampling


def make_engine(device: str, *, context: int = 4096) -> tuple[FakeEngine, list[float]]:
    """A fake that pretends to compute there, and the pauses it made."""
    pauses: list[float] = []
    info = ModelInfo(context_tokens=context, max_sequences=4, device=device)
    return FakeEngine(FakeSettings(prefill_ms=8), info, sleep=pauses.append), pauses


def test_every_sampling_answers_once_and_nothing_stays() -> None:
    """Each setting has its kernels compiled; all slots are free afterwards."""
    engine, _ = make_engine("cpu")
    warm_up(engine, [Sampling(max_tokens=1), Sampling(max_tokens=1, top_p=0.9)])
    assert (4, {}, []) == (engine.free_slots, engine.prefilling(), engine.step())


def test_warming_up_is_no_part_of_anybodys_prompts() -> None:
    """Whoever asks for the same is not told that it was there and had to go."""
    info = ModelInfo(context_tokens=4096, max_sequences=4, device="gpu")
    engine = FakeEngine(FakeSettings(keep=4096), info)
    warm_up(engine, [Sampling(max_tokens=1)])
    warm_up_company(engine)
    warm_up_passes(engine, [(2, 30)])
    sample_passes(engine, engine.shrink)
    for token_id in range(len(COMPANY_STAYS)):
        outlook = engine.foresee([token_id] * 200, SHARES_FREELY)
        assert (0, "no-entry") == (outlook.known_tokens, outlook.reason)


def test_a_gpu_is_timed_over_one_pass() -> None:
    """The sample is a pass of prompt tokens alone, made twice; nothing is left of it."""
    engine, pauses = make_engine("gpu")
    ((tokens, took_s),) = sample_passes(engine, engine.shrink)
    assert GPU_SAMPLES == (tokens,)
    assert took_s > 0
    assert 2 == len(pauses)
    assert (4, {}, []) == (engine.free_slots, engine.prefilling(), engine.step())


def test_a_cpu_is_timed_over_small_passes_first() -> None:
    """What costs of them go down with their size is known from the first request on."""
    engine, pauses = make_engine("cpu")
    samples = sample_passes(engine, engine.shrink)
    assert list(CPU_SAMPLES) == [tokens for tokens, _ in samples]
    assert len(CPU_SAMPLES) == len(pauses)  # nothing compiles
    assert (4, {}, []) == (engine.free_slots, engine.prefilling(), engine.step())


def test_a_slow_cpu_is_not_timed_for_long() -> None:
    """A pass of a large model may take minutes there: after the smallest it is left alone."""
    info = ModelInfo(context_tokens=4096, max_sequences=4, device="cpu")
    chunk_s = 1.1 * LONGEST_SAMPLE_S * FakeSettings().chunk / CPU_SAMPLES[1]
    engine = FakeEngine(FakeSettings(prefill_ms=1000 * chunk_s), info)
    assert [CPU_SAMPLES[0]] == [tokens for tokens, _ in sample_passes(engine, engine.shrink)]


def test_a_short_context_makes_a_short_sample() -> None:
    """The sample fits into the context with its one token of answer."""
    for device in ("gpu", "cpu"):
        engine, _ = make_engine(device, context=8)
        ((tokens, _),) = sample_passes(engine, engine.shrink)
        assert 6 == tokens
