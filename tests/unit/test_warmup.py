"""What an engine does before its first request."""

from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.warmup import SAMPLE_TOKENS, sample_pass, warm_up
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


def test_a_gpu_is_timed_over_one_pass() -> None:
    """The sample is a pass of prompt tokens alone, made twice; nothing is left of it."""
    engine, pauses = make_engine("gpu")
    tokens, took_s = sample_pass(engine) or (0, 0.0)
    assert SAMPLE_TOKENS == tokens
    assert took_s > 0
    assert 2 == len(pauses)
    assert (4, {}, []) == (engine.free_slots, engine.prefilling(), engine.step())


def test_a_cpu_is_not_timed() -> None:
    """A pass of a large model may take minutes there."""
    engine, pauses = make_engine("cpu")
    assert sample_pass(engine) is None
    assert [] == pauses


def test_a_short_context_makes_a_short_sample() -> None:
    """The sample fits into the context with its one token of answer."""
    assert 6 == (sample_pass(make_engine("gpu", context=8)[0]) or (0, 0.0))[0]
