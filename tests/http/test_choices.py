"""Chat parameters that shape choices: n, log-probabilities, seeds, biases and constraints."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import both_chats, chat, streamed_chat, whole_chat
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, chat_request, stream_chunks, wait_until

WORDS = 12
SLOTS = 8


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model of words, one that says a sentence, and one that says bytes of an emoji."""
    models = (
        f"fake:words?tokens={WORDS}&step_ms=1&max_sequences={SLOTS}",
        "fake:says?text=The+answer+is+42.",
        "fake:emoji?text=%C3%A9%F0%9F%8E%89!",
    )
    with shared_daemon(tmp_path_factory.mktemp("home"), *models) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def test_choices_are_numbered_and_differ(daemon: Daemon) -> None:
    """`n` gives so many answers, each by a seed of its own, streamed as whole."""
    told = both_chats(daemon, "words", n=3, seed=11, temperature=1)
    assert 3 == len({choice.content for choice in told})
    assert ["stop"] * 3 == [choice.reason for choice in told]


def test_a_choice_is_what_its_seed_gives_alone(daemon: Daemon) -> None:
    """Choice `i` of a request is the answer of a request with the seed plus `i`."""
    together = whole_chat(daemon, "words", n=4, seed=20, temperature=1)
    alone = [whole_chat(daemon, "words", seed=20 + i, temperature=1)[0] for i in range(4)]
    assert alone == together


def test_greedy_choices_are_equal(daemon: Daemon) -> None:
    """Without chance there is one answer, as often as it is asked for."""
    told = both_chats(daemon, "words", n=SLOTS, temperature=0)
    assert [told[0]] * SLOTS == told


def test_usage_counts_the_prompt_once(daemon: Daemon) -> None:
    """Choices share their prompt; what they say is summed, streamed as whole."""
    one = chat(daemon, "words", temperature=0).json()["usage"]
    many = chat(daemon, "words", temperature=0, n=3).json()["usage"]
    assert one["prompt_tokens"] == many["prompt_tokens"]
    assert 3 * one["completion_tokens"] == many["completion_tokens"]
    options = {"include_usage": True}
    body = chat(daemon, "words", temperature=0, n=3, stream=True, stream_options=options).body
    assert many == stream_chunks(body)[-1]["usage"]


def test_every_choice_of_a_stream_has_its_role_and_its_end(daemon: Daemon) -> None:
    """Roles come first, in order; each choice says once why it ended."""
    body = chat(daemon, "words", n=3, temperature=1, stream=True).body
    choices = [chunk["choices"][0] for chunk in stream_chunks(body)]
    assert [0, 1, 2] == [choice["index"] for choice in choices[:3]]
    assert [{"role": "assistant", "content": ""}] * 3 == [c["delta"] for c in choices[:3]]
    assert [] == [choice for choice in choices[3:] if "role" in choice["delta"]]
    ends = sorted(choice["index"] for choice in choices if choice["finish_reason"])
    assert [0, 1, 2] == ends


def test_choices_arrive_side_by_side(daemon: Daemon) -> None:
    """Choices are decoded in one batch, not one after the other."""
    body = chat(daemon, "words", n=3, temperature=1, stream=True).body
    choices = [chunk["choices"][0] for chunk in stream_chunks(body)]
    order = [choice["index"] for choice in choices if choice["delta"].get("content")]
    assert sorted(order) != order


def test_more_choices_than_slots_are_refused(daemon: Daemon) -> None:
    """A request that could never run says so at once, and names the field."""
    reply = chat(daemon, "words", n=SLOTS + 1)
    assert (400, "n") == (reply.status, reply.json()["error"]["param"])


def test_hanging_up_frees_every_choice(daemon: Daemon) -> None:
    """A client that leaves while all slots are its own leaves none of them taken."""
    with Connection(daemon) as connection:
        fields: dict[str, Any] = {
            "n": SLOTS,
            "ignore_eos": True,
            "max_tokens": 4000,
            "stream": True,
        }
        connection.send(chat_request("words", **fields))
        assert 200 == connection.read_head().status
    assert [("length", 1)] == [
        (told.reason, len((told.content or "").split()))
        for told in whole_chat(daemon, "words", max_tokens=1)
    ]


@pytest.mark.parametrize("top", [None, 0, 1, 5, 20])
def test_logprobs_cover_the_text(daemon: Daemon, top: int | None) -> None:
    """Every token of the text has one entry with its bytes, streamed as whole."""
    fields: dict[str, Any] = {"logprobs": True, "temperature": 0, "top_logprobs": top}
    [told] = both_chats(daemon, "words", **fields)
    spelled = b"".join(bytes(entry["bytes"]) for entry in told.logprobs)
    assert told.content == spelled.decode()
    assert WORDS == len(told.logprobs)
    assert {top or 0} == {len(entry["top_logprobs"]) for entry in told.logprobs}


def test_the_likeliest_come_first(daemon: Daemon) -> None:
    """Alternatives fall in likelihood, and a greedy token leads its own list."""
    [told] = whole_chat(daemon, "words", logprobs=True, top_logprobs=3, temperature=0)
    for entry in told.logprobs:
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert sorted(values, reverse=True) == values
        assert (entry["token"], entry["logprob"]) == (
            entry["top_logprobs"][0]["token"],
            values[0],
        )
        assert math.isfinite(entry["logprob"])
        assert entry["logprob"] <= 0


def test_bytes_rebuild_characters_of_several_tokens(daemon: Daemon) -> None:
    """A token may be part of a character; its bytes say which part."""
    [told] = both_chats(daemon, "emoji", logprobs=True)
    spelled = b"".join(bytes(entry["bytes"]) for entry in told.logprobs)
    assert "é🎉!" == told.content == spelled.decode()
    assert 7 == len(told.logprobs)


def test_every_choice_has_logprobs_of_its_own(daemon: Daemon) -> None:
    """Scores never mix between choices of one stream."""
    told = both_chats(daemon, "words", n=3, seed=5, temperature=1, logprobs=True)
    texts = ["".join(entry["token"] for entry in choice.logprobs) for choice in told]
    assert [choice.content for choice in told] == texts


def test_no_logprobs_unless_asked(daemon: Daemon) -> None:
    """Choices then say null, in every chunk."""
    [choice] = chat(daemon, "words").json()["choices"]
    assert choice["logprobs"] is None
    chunks = stream_chunks(chat(daemon, "words", stream=True).body)
    assert {None} == {choice["logprobs"] for chunk in chunks for choice in chunk["choices"]}


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


@pytest.mark.parametrize("fields", [{"response_format": NAMED}, {"guided_json": SCHEMA}])
def test_a_schema_holds(daemon: Daemon, fields: dict[str, Any]) -> None:
    """A model that would say a sentence gives the object that the schema demands."""
    [told] = both_chats(daemon, "says", temperature=0, max_tokens=200, **fields)
    value = json.loads(told.content or "")
    assert {"name": str, "age": int} == {key: type(item) for key, item in value.items()}
    assert "stop" == told.reason


def test_any_object_holds(daemon: Daemon) -> None:
    """`json_object` asks for an object and nothing more."""
    fields = {"response_format": {"type": "json_object"}, "max_tokens": 200}
    [told] = both_chats(daemon, "says", temperature=0, **fields)
    assert isinstance(json.loads(told.content or ""), dict)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"guided_choice": ["a.b", "(c)", "\\d"]}, {"a.b", "(c)", "\\d"}),
        ({"guided_regex": "[0-9]{3}-[a-c]"}, {f"111-{letter}" for letter in "abc"}),
        ({"guided_grammar": 'start: "on" | "off"'}, {"on", "off"}),
    ],
)
def test_a_guide_holds(daemon: Daemon, fields: dict[str, Any], expected: set[str]) -> None:
    """Choices, expressions and grammars leave nothing else to say."""
    [told] = both_chats(daemon, "says", temperature=0, max_tokens=50, **fields)
    text = told.content or ""
    assert {text} <= expected if "guided_regex" not in fields else text[3:] in {"-a", "-b", "-c"}


def test_constrained_choices_are_each_constrained(daemon: Daemon) -> None:
    """A constraint's state is a choice's own: all of `n` reach their end."""
    told = both_chats(daemon, "words", n=4, seed=1, temperature=1, guided_json=SCHEMA)
    assert 4 == len([json.loads(choice.content or "") for choice in told])


def test_constrained_beside_free(daemon: Daemon) -> None:
    """Neighbours in the batch do not feel somebody's constraint."""
    alone = streamed_chat(daemon, "words", temperature=0)
    with Connection(daemon) as bound, Connection(daemon) as free:
        bound.send(chat_request("words", guided_json=SCHEMA, temperature=0))
        free.send(chat_request("words", temperature=0))
        content = free.read_reply().json()["choices"][0]["message"]["content"]
        json.loads(bound.read_reply().json()["choices"][0]["message"]["content"])
    assert [content] == [told.content for told in alone]


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format.json_schema.schema", {"response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "nothing"}},
        }}),
        ("guided_json", {"guided_json": {"type": "object", "$ref": "#/nowhere"}}),
        ("guided_regex", {"guided_regex": "(unclosed"}),
        ("guided_grammar", {"guided_grammar": "start: missing_rule"}),
        ("guided_regex", {"guided_regex": "a", "guided_choice": ["b"]}),
        ("guided_json", {"guided_json": SCHEMA, "response_format": {"type": "json_object"}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_streamed", [False, True])
def test_impossible_constraints_are_refused(
    daemon: Daemon, param: str, fields: dict[str, Any], *, is_streamed: bool
) -> None:
    """What cannot be compiled or combined is a 400 before any token, also of a stream."""
    reply = chat(daemon, "says", stream=is_streamed, **fields)
    assert 400 == reply.status, reply.body
    assert {param} & {reply.json()["error"]["param"]} or param in reply.json()["error"]["message"]


def test_the_least_and_the_most_length(daemon: Daemon) -> None:
    """`min_tokens` outlasts the model's end; `ignore_eos` runs to the limit."""
    [longer] = both_chats(daemon, "words", temperature=0, min_tokens=WORDS + 8)
    assert (WORDS + 8, "stop") == (len((longer.content or "").split()), longer.reason)
    [endless] = both_chats(daemon, "words", temperature=0, ignore_eos=True, max_tokens=40)
    assert (40, "length") == (len((endless.content or "").split()), endless.reason)


NEUTRAL: list[dict[str, Any]] = [
    {"frequency_penalty": 1.5, "presence_penalty": -2},
    {"logit_bias": {"65": 100, "66": -100}},
    {"top_k": -1, "min_p": 0.0, "top_p": 1},
    {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
    {"response_format": {"type": "text"}},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_sampling_parameters_are_taken(daemon: Daemon, fields: dict[str, Any]) -> None:
    """The fake engine samples nothing, so an accepted parameter changes nothing of its reply."""
    plain = whole_chat(daemon, "words", temperature=0)
    assert plain == both_chats(daemon, "words", temperature=0, **fields)


def test_a_stop_ends_only_its_choice(daemon: Daemon) -> None:
    """Each choice is cut at its own first stop; the others go on."""
    free = whole_chat(daemon, "words", n=3, seed=3, temperature=1)
    stop = (free[1].content or "").split()[4]
    told = both_chats(daemon, "words", n=3, seed=3, temperature=1, stop=stop)
    expected = [(choice.content or "").split(stop)[0].rstrip() for choice in free]
    assert expected == [choice.content for choice in told]
