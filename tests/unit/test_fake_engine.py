"""The fake engine: its settings, its determinism and its failures."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines import load_engine
from lmx.engines.base import Choice, LoadedEngine, StepResult, TokenLogprobs
from lmx.engines.fake import parse_settings
from lmx.engines.fake_tokens import END_ID, WORDS, FakeDetokenizer, FakeTokenizer
from lmx.errors import (
    ContextTooLong,
    InvalidRequest,
    NoFreeSlot,
    OutOfMemory,
    UnsupportedModel,
)
from lmx.protocol.messages import ChatPrompt, Load
from lmx.protocol.values import Grammar, GrammarKind, Sampling

OBJECT_SCHEMA = """{"type": "object", "required": ["a", "b"],
 "properties": {"a": {"type": "boolean"}, "b": {"const": "x"}}}"""


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
    loaded.engine.add([Choice(1, Sampling(1000))], [1])
    results = run_to_end(loaded)[1]
    detokenizer = loaded.tokenizer.new_detokenizer()
    assert [*text.encode(), END_ID] == ids(results)
    assert text == "".join(map(detokenizer.feed, ids(results))) + detokenizer.flush()
    assert [None] * (len(results) - 1) + ["stop"] == [result.finish for result in results]


@pytest.mark.parametrize(("role", "expected"), [("user", "a"), ("tool", "b")])
def test_a_reply_after_a_tools_result(role: str, expected: str) -> None:
    """A conversation in which a tool has answered may have a reply of its own."""
    loaded = load("text=a&then=b")
    turns = [{"role": "user", "content": "tool: x"}, {"role": role, "content": "y"}]
    prompt = loaded.tokenizer.encode(loaded.tokenizer.render(ChatPrompt(turns)))
    loaded.engine.add([Choice(1, Sampling(10))], prompt)
    assert [ord(expected), END_ID] == ids(run_to_end(loaded)[1])


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [(3, 10, (4, "stop")), (3, 3, (3, "length")), (9, 1, (1, "length")), (0, 5, (1, "stop"))],
)
def test_a_reply_ends_by_itself_or_at_its_limit(
    tokens: int, limit: int, expected: tuple[int, str]
) -> None:
    """The reply has the length asked for and an end id, or as many tokens as allowed."""
    loaded = load(f"tokens={tokens}")
    loaded.engine.add([Choice(1, Sampling(limit))], [1])
    results = run_to_end(loaded)[1]
    assert expected == (len(results), results[-1].finish)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=5), st.integers(0, 3))
def test_a_reply_is_the_same_alone_and_among_neighbours(prompt: list[int], before: int) -> None:
    """Who else is in the batch, and since when, changes no token."""
    alone = load("tokens=6")
    alone.engine.add([Choice(1, Sampling(10, seed=3))], prompt)
    crowd = load("tokens=6")
    crowd.engine.add([Choice(7, Sampling(10, seed=4))], [9])
    for _ in range(before):
        crowd.engine.step()
    crowd.engine.add([Choice(1, Sampling(10, seed=3))], prompt)
    assert run_to_end(alone)[1] == run_to_end(crowd)[1]


def test_greedy_ignores_the_seed_and_sampling_does_not() -> None:
    """At temperature 0 the seed has no effect; otherwise seeds give different replies."""

    def reply(seed: int, temperature: float) -> list[int]:
        loaded = load("tokens=8")
        loaded.engine.add([Choice(1, Sampling(10, temperature, seed=seed))], [1, 2])
        return ids(run_to_end(loaded)[1])

    assert reply(1, 0.0) == reply(2, 0.0)
    assert len({tuple(reply(seed, 1.0)) for seed in range(8)}) > 1


def test_slots_are_taken_and_freed() -> None:
    """A slot is free again after `remove`, which may be called twice, and after the end."""
    engine = load("tokens=1", max_sequences=2).engine
    engine.add([Choice(1, Sampling(5))], [1])
    engine.add([Choice(2, Sampling(5))], [1])
    assert 0 == engine.free_slots
    with pytest.raises(NoFreeSlot):
        engine.add([Choice(3, Sampling(5))], [1])
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
    engine.add([Choice(1, Sampling(6))], [1] * 4)
    with pytest.raises(ContextTooLong):
        engine.add([Choice(2, Sampling(7))], [1] * 4)
    assert 3 == engine.free_slots


def test_prefill_takes_one_step_per_chunk() -> None:
    """With prefill switched on, tokens come after as many steps as the prompt has chunks."""
    engine = load("prefill_ms=0.001&chunk=2&tokens=1").engine
    engine.add([Choice(1, Sampling(5))], [1] * 5)
    silent = 0
    while not engine.step():
        silent += 1
    assert 3 == silent


def test_memory_returns_after_close() -> None:
    """Live sequences cost bytes, closed ones none; the peak stays."""
    engine = load("weight_bytes=100").engine
    assert (100, 100) == (engine.memory().active_bytes, engine.memory().peak_bytes)
    engine.add([Choice(1, Sampling(5))], [1] * 3)
    high = engine.memory().active_bytes
    assert high > 100
    engine.close()
    engine.close()
    assert (100, high) == (engine.memory().active_bytes, engine.memory().peak_bytes)


def test_steps_without_work_do_nothing() -> None:
    """An idle engine returns nothing, and does not count towards a failure."""
    engine = load("fail=raise&fail_step=1").engine
    assert [] == engine.step()
    engine.add([Choice(1, Sampling(5))], [1])
    with pytest.raises(RuntimeError):
        engine.step()


@pytest.mark.parametrize(("fail", "kind"), [("oom", OutOfMemory), ("raise", RuntimeError)])
def test_failures_at_a_step(fail: str, kind: type[Exception]) -> None:
    """A failure comes at the step asked for and not before."""
    engine = load(f"fail={fail}&fail_step=3").engine
    engine.add([Choice(1, Sampling(50))], [1])
    engine.step()
    engine.step()
    with pytest.raises(kind):
        engine.step()


def test_a_prompt_can_ask_for_a_failure_where_settings_let_it() -> None:
    """It comes once the reply has as many tokens as asked for; elsewhere the words mean nothing."""
    prompt = list(b"please fail:raise:2 now")
    deaf, obedient = load("fail=raise&fail_step=99").engine, load("fail=asked").engine
    for engine in (deaf, obedient):
        engine.add([Choice(1, Sampling(50))], prompt)
        engine.step()
        engine.step()
    deaf.step()
    with pytest.raises(RuntimeError):
        obedient.step()


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
    rendered = tokenizer.render(ChatPrompt([{"role": "user", "content": "Hi"}, {"role": "tool"}]))
    assert "user: Hi\ntool: \nassistant:" == rendered
    assert "é" == bytes(tokenizer.encode("é")).decode()
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.render(ChatPrompt([{"role": "user", "content": "refuse me"}]))
    assert "messages" == caught.value.param


def test_the_vocabulary() -> None:
    """Every id has bytes, the end token as its text; tools show in the prompt."""
    tokenizer = FakeTokenizer()
    assert [b"a", b"<end>", b" amber", b""] == [
        tokenizer.token_bytes(token_id) for token_id in (97, END_ID, END_ID + 1, 9999)
    ]
    assert {"<end>"} == tokenizer.special_tokens
    prompt = ChatPrompt([{"role": "user", "content": "Hi"}], [{"name": "f"}])
    assert 'tools: [{"name":"f"}]\nuser: Hi\nassistant:' == tokenizer.render(prompt)


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("regex", "[a-c]{3}-[xyz]", "aaa-x"),
        ("lark", 'start: "no" | "maybe"', "maybe"),
        ("json_schema", '{"type": "string", "maxLength": 3}', '""'),
        ("json_schema", '{"type": "array", "items": {"type": "integer"}, "minItems": 2}', "[0,0]"),
        ("json_schema", OBJECT_SCHEMA, '{"a":false,"b":"x"}'),
    ],
)
def test_constrained_replies_are_short_and_match(
    kind: GrammarKind, source: str, expected: str
) -> None:
    """Where the reply's own words do not fit, what completes the text soonest is taken."""
    loaded = load("tokens=40")
    constraint = loaded.grammars.compile(Grammar(kind, source, "x"))
    loaded.engine.add([Choice(1, Sampling(60), constraint)], [1])
    results = run_to_end(loaded)[1]
    detokenizer = loaded.tokenizer.new_detokenizer()
    assert expected == "".join(map(detokenizer.feed, ids(results)))
    assert "complete" == results[-1].finish


def test_a_constraint_lets_the_replys_own_words_through() -> None:
    """What the script says is kept as long as the grammar allows it."""
    loaded = load("text=%7B%22b%22:+12%7D")
    constraint = loaded.grammars.compile(Grammar("json_schema", "{}", "x"))
    loaded.engine.add([Choice(1, Sampling(60), constraint)], [1])
    assert '{"b": 12}' == bytes(i for i in ids(run_to_end(loaded)[1]) if i < 256).decode()


def test_invented_logprobs_are_always_the_same() -> None:
    """The first is minus six eighths, with alternatives three quarters apart."""
    loaded = load("text=ab")
    loaded.engine.add([Choice(1, Sampling(9, top_logprobs=2))], [5, 6], wants_prompt_logprobs=True)
    first, second, _ = run_to_end(loaded)[1]
    assert TokenLogprobs(-0.75, ((97, -0.75), (98, -1.5))) == first.logprobs
    assert TokenLogprobs(-0.875, ((98, -0.875), (99, -1.625))) == second.logprobs
    assert (None, TokenLogprobs(-0.75, ((6, -0.75), (7, -1.5)))) == first.prompt_logprobs
    assert second.prompt_logprobs is None
