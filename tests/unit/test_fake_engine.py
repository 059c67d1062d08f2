"""The fake engine: its settings, its determinism and its failures."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines import load_engine
from lmx.engines.base import LoadedEngine, StepResult
from lmx.engines.fake import END_ID, WORDS, FakeDetokenizer, FakeTokenizer, parse_settings
from lmx.errors import (
    ContextTooLong,
    InvalidRequest,
    NoFreeSlot,
    OutOfMemory,
    UnsupportedModel,
)
from lmx.protocol.messages import Load
from lmx.protocol.values import Sampling


def load(query: str = "", *, max_sequences: int = 4) -> LoadedEngine:
    """A fake model as the worker brings it up."""
    return load_engine(Load("fake", query, max_sequences))


def run_to_end(loaded: LoadedEngine) -> dict[int, list[StepResult]]:
    """Step until no sequence is left; results by sequence."""
    results: dict[int, list[StepResult]] = {}
    while loaded.engine.free_slots < loaded.engine.info.max_sequences:
        for result in loaded.engine.step():
            results.setdefault(result.sequence_id, []).append(result)
    return results


def ids(results: list[StepResult]) -> list[int]:
    """Token ids alone."""
    return [result.token_id for result in results]


@pytest.mark.parametrize("query", ["speed=3", "tokens=many", "step_ms=", "a", "fail_step=1.5"])
def test_settings_that_cannot_be_read(query: str) -> None:
    """An unknown key or a wrong type is an `UnsupportedModel`; an empty value is as none."""
    if query in {"step_ms=", "a"}:
        assert parse_settings("") == parse_settings(query)
        return
    with pytest.raises(UnsupportedModel):
        load(query)


def test_an_unknown_engine_is_refused() -> None:
    """There is no engine by any other name."""
    with pytest.raises(UnsupportedModel, match="cuda"):
        load_engine(Load("cuda", "", 1))


def test_info_follows_settings_and_load() -> None:
    """The model's own limits win over the server's slots; the smaller context wins."""
    info = load("max_sequences=2&context=100&weight_bytes=5").engine.info
    assert (2, 100, 5, "fake") == (
        info.max_sequences,
        info.context_tokens,
        info.weight_bytes,
        info.engine,
    )
    assert 50 == load_engine(Load("fake", "context=100", 4, 50)).engine.info.context_tokens
    assert 100 == load_engine(Load("fake", "context=100", 4, 500)).engine.info.context_tokens


@given(st.text(min_size=1, max_size=10).filter(str.strip))
def test_text_is_replied_byte_by_byte(text: str) -> None:
    """A reply given as text comes out as that text, then an end id."""
    query = "text=" + "".join(f"%{byte:02x}" for byte in text.encode())
    loaded = load(query)
    loaded.engine.add(1, [1], Sampling(1000))
    results = run_to_end(loaded)[1]
    detokenizer = loaded.tokenizer.new_detokenizer()
    assert [*text.encode(), END_ID] == ids(results)
    assert text == "".join(map(detokenizer.feed, ids(results))) + detokenizer.flush()
    assert [None] * (len(results) - 1) + ["stop"] == [result.finish for result in results]


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [(3, 10, (4, "stop")), (3, 3, (3, "length")), (9, 1, (1, "length")), (0, 5, (1, "stop"))],
)
def test_a_reply_ends_by_itself_or_at_its_limit(
    tokens: int, limit: int, expected: tuple[int, str]
) -> None:
    """The reply has the length asked for and an end id, or as many tokens as allowed."""
    loaded = load(f"tokens={tokens}")
    loaded.engine.add(1, [1], Sampling(limit))
    results = run_to_end(loaded)[1]
    assert expected == (len(results), results[-1].finish)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=5), st.integers(0, 3))
def test_a_reply_is_the_same_alone_and_among_neighbours(prompt: list[int], before: int) -> None:
    """Who else is in the batch, and since when, changes no token."""
    alone = load("tokens=6")
    alone.engine.add(1, prompt, Sampling(10, seed=3))
    crowd = load("tokens=6")
    crowd.engine.add(7, [9], Sampling(10, seed=4))
    for _ in range(before):
        crowd.engine.step()
    crowd.engine.add(1, prompt, Sampling(10, seed=3))
    assert run_to_end(alone)[1] == run_to_end(crowd)[1]


def test_greedy_ignores_the_seed_and_sampling_does_not() -> None:
    """At temperature 0 the seed has no effect; otherwise seeds give different replies."""

    def reply(seed: int, temperature: float) -> list[int]:
        loaded = load("tokens=8")
        loaded.engine.add(1, [1, 2], Sampling(10, temperature, seed=seed))
        return ids(run_to_end(loaded)[1])

    assert reply(1, 0.0) == reply(2, 0.0)
    assert len({tuple(reply(seed, 1.0)) for seed in range(8)}) > 1


def test_slots_are_taken_and_freed() -> None:
    """A slot is free again after `remove`, which may be called twice, and after the end."""
    engine = load("tokens=1", max_sequences=2).engine
    engine.add(1, [1], Sampling(5))
    engine.add(2, [1], Sampling(5))
    assert 0 == engine.free_slots
    with pytest.raises(NoFreeSlot):
        engine.add(3, [1], Sampling(5))
    engine.remove(1)
    engine.remove(1)
    engine.remove(99)
    assert 1 == engine.free_slots
    engine.step()
    engine.step()
    assert 2 == engine.free_slots


def test_prompt_and_answer_must_fit_the_context() -> None:
    """The last token that fits is accepted; one more is `ContextTooLong` and takes no slot."""
    engine = load("context=10").engine
    engine.add(1, [1] * 4, Sampling(6))
    with pytest.raises(ContextTooLong):
        engine.add(2, [1] * 4, Sampling(7))
    assert 3 == engine.free_slots


def test_prefill_takes_one_step_per_chunk() -> None:
    """With prefill switched on, tokens come after as many steps as the prompt has chunks."""
    engine = load("prefill_ms=0.001&chunk=2&tokens=1").engine
    engine.add(1, [1] * 5, Sampling(5))
    silent = 0
    while not engine.step():
        silent += 1
    assert 3 == silent


def test_memory_returns_after_close() -> None:
    """Live sequences cost bytes, closed ones none; the peak stays."""
    engine = load("weight_bytes=100").engine
    assert (100, 100) == (engine.memory().active_bytes, engine.memory().peak_bytes)
    engine.add(1, [1] * 3, Sampling(5))
    high = engine.memory().active_bytes
    assert high > 100
    engine.close()
    engine.close()
    assert (100, high) == (engine.memory().active_bytes, engine.memory().peak_bytes)


def test_steps_without_work_do_nothing() -> None:
    """An idle engine returns nothing, and does not count towards a failure."""
    engine = load("fail=raise&fail_step=1").engine
    assert [] == engine.step()
    engine.add(1, [1], Sampling(5))
    with pytest.raises(RuntimeError):
        engine.step()


@pytest.mark.parametrize(("fail", "kind"), [("oom", OutOfMemory), ("raise", RuntimeError)])
def test_failures_at_a_step(fail: str, kind: type[Exception]) -> None:
    """A failure comes at the step asked for and not before."""
    engine = load(f"fail={fail}&fail_step=3").engine
    engine.add(1, [1], Sampling(50))
    engine.step()
    engine.step()
    with pytest.raises(kind):
        engine.step()


def test_a_failure_while_loading() -> None:
    """Step 0 means the load."""
    with pytest.raises(RuntimeError):
        load("fail=raise&fail_step=0")


@pytest.mark.parametrize(("fail", "status"), [("abort", -6), ("exit", 7)])
def test_failures_that_end_the_process(fail: str, status: int) -> None:
    """An abort and an exit take the process with them, as real crashes do."""
    program = (
        "from lmx.engines import load_engine; from lmx.protocol.messages import Load; "
        f"load_engine(Load('fake', 'fail={fail}', 1))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert status == done.returncode


@given(st.lists(st.integers(0, END_ID + len(WORDS)), max_size=12))
def test_the_detokenizer_never_cuts_a_character(token_ids: list[int]) -> None:
    """Any ids give the text that their bytes decode to as a whole."""
    detokenizer = FakeDetokenizer()
    text = "".join(map(detokenizer.feed, token_ids)) + detokenizer.flush()
    data = b"".join(
        bytes((i,)) if i < END_ID else b"" if i == END_ID else f" {WORDS[i - END_ID - 1]}".encode()
        for i in token_ids
    )
    assert data.decode(errors="replace") == text


def test_the_template() -> None:
    """A prompt is a line per message and the assistant's turn; one conversation is refused."""
    tokenizer = FakeTokenizer()
    rendered = tokenizer.render([{"role": "user", "content": "Hi"}, {"role": "tool"}])
    assert "user: Hi\ntool: \nassistant:" == rendered
    assert "é" == bytes(tokenizer.encode("é")).decode()
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.render([{"role": "user", "content": "refuse me"}])
    assert "messages" == caught.value.param
