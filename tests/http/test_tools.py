"""Tool calls on the wire: what a model writes between tags reaches the client as calls.

The fake model has no template, so calls are spelt in the common form, whatever its answer is.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import HELLO, both_chats, chat, streamed_chat, whole_chat
from tests.http.shared import shared_daemon
from tests.http.wire import stream_chunks, wait_until


def written(name: str, **arguments: Any) -> str:
    """A call as a model writes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool whose parameters are all required."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("get_weather", city={"type": "string"}, days={"type": "integer"})
CLOCK = tool("clock", zone={"enum": ["utc", "cet"]})
TOOLS = [WEATHER, CLOCK]
ODD = 'São "Paulo" </tool_call> ☔\n'
ANSWERS = {
    "one": written("get_weather", city="Paris", days=3),
    "two": "\n".join([written("get_weather", city="Oslo", days=1), written("clock", zone="utc")]),
    "told": "Let me see.\n" + written("clock", zone="cet"),
    "odd": written("get_weather", city=ODD, days=0),
    "broken": '<tool_call>\n{"name": "clock", "argum',
    "nothing": "I need no tool, though <tool is close.",
    "quotes": "Write `" + written("clock", zone="utc") + "` to call.",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model per answer."""
    models = [f"fake:{name}?text={quote(text)}" for name, text in ANSWERS.items()]
    with shared_daemon(tmp_path_factory.mktemp("home"), *models) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def test_a_call_is_a_call(daemon: Daemon) -> None:
    """Markup becomes a call with JSON text as arguments, content null, and says so at the end."""
    [told] = both_chats(daemon, "one", tools=TOOLS)
    assert (None, "tool_calls") == (told.content, told.reason)
    assert [("get_weather", {"city": "Paris", "days": 3})] == told.called


def test_two_calls_are_numbered(daemon: Daemon) -> None:
    """Calls keep their order and have ids of their own."""
    [told] = both_chats(daemon, "two", tools=TOOLS)
    assert [
        ("get_weather", {"city": "Oslo", "days": 1}),
        ("clock", {"zone": "utc"}),
    ] == told.called
    assert 2 == len({made for made, _, _ in told.calls})


def test_ids_are_the_answers_own(daemon: Daemon) -> None:
    """Two answers never share a call's id, so that results find their call."""
    answers = [whole_chat(daemon, "one", tools=TOOLS)[0].calls[0][0] for _ in range(3)]
    assert 3 == len(set(answers))
    assert all(made.startswith("call_") for made in answers)


def test_text_before_a_call_stays_text(daemon: Daemon) -> None:
    """What a model says around its calls is content, without the line breaks of the markup."""
    [told] = both_chats(daemon, "told", tools=TOOLS)
    assert ("Let me see.", [("clock", {"zone": "cet"})]) == (told.content, told.called)


def test_arguments_survive_exactly(daemon: Daemon) -> None:
    """Quotes, line breaks, signs of several bytes and the closing tag inside a string."""
    [told] = both_chats(daemon, "odd", tools=TOOLS)
    assert [("get_weather", {"city": ODD, "days": 0})] == told.called


def test_no_markup_leaks_into_a_stream(daemon: Daemon) -> None:
    """Not one delta holds a piece of a tag, though tokens are single bytes."""
    for model in ("one", "two", "told"):
        [told] = streamed_chat(daemon, model, tools=TOOLS)
        assert "<" not in (told.content or "")


def test_calls_are_whole_in_their_delta(daemon: Daemon) -> None:
    """A call is sent once it is complete: id, type, name and arguments in one delta."""
    chunks = stream_chunks(chat(daemon, "two", tools=TOOLS, stream=True).body)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert [[0], [1]] == [[call["index"] for call in group] for group in calls]
    assert {("function", "id", "index", "type")} == {tuple(sorted(c)) for [c] in calls}


def test_a_cut_call_is_no_call(daemon: Daemon) -> None:
    """Half a call is shown as the text it is, without a tag, and is not called."""
    [told] = both_chats(daemon, "broken", tools=TOOLS)
    assert ([], "stop") == (told.calls, told.reason)
    assert "<tool_call>" not in (told.content or "")


def test_a_limit_inside_a_call(daemon: Daemon) -> None:
    """An answer cut in the middle of a call says `length` and calls nothing."""
    [told] = both_chats(daemon, "one", tools=TOOLS, max_tokens=30)
    assert ([], "length") == (told.calls, told.reason)


def test_text_that_looks_like_markup(daemon: Daemon) -> None:
    """The beginning of a tag that never comes is text."""
    [told] = both_chats(daemon, "nothing", tools=TOOLS)
    assert (ANSWERS["nothing"], [], "stop") == (told.content, told.calls, told.reason)


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_markup_is_text(daemon: Daemon, fields: dict[str, Any]) -> None:
    """Nobody offered a tool, so nothing is one."""
    [told] = both_chats(daemon, "one", **fields)
    assert (ANSWERS["one"], [], "stop") == (told.content, told.calls, told.reason)


def test_every_choice_calls_for_itself(daemon: Daemon) -> None:
    """Calls are numbered within their choice, with ids unique to the answer."""
    told = both_chats(daemon, "two", tools=TOOLS, n=3)
    assert [2, 2, 2] == [len(choice.calls) for choice in told]
    assert 6 == len({made for choice in told for made, _, _ in choice.calls})


def test_logprobs_beside_calls(daemon: Daemon) -> None:
    """Scores are of the model's own tokens, markup included."""
    [told] = both_chats(daemon, "one", tools=TOOLS, logprobs=True)
    assert ANSWERS["one"] == "".join(entry["token"] for entry in told.logprobs)


@pytest.mark.parametrize("model", list(ANSWERS))
def test_a_required_call_comes(daemon: Daemon, model: str) -> None:
    """Whatever the model would say, an enforced answer is calls that fit their schemas."""
    [told] = both_chats(daemon, model, tools=TOOLS, tool_choice="required", max_tokens=400)
    assert (None, "tool_calls") == (told.content, told.reason)
    assert told.calls
    for name, arguments in told.called:
        assert {"get_weather": {"city", "days"}, "clock": {"zone"}}[name] == set(arguments)


@pytest.mark.parametrize("model", ["one", "two", "nothing"])
def test_a_named_call_comes_once(daemon: Daemon, model: str) -> None:
    """The named tool is called, once, and no other."""
    choice = {"type": "function", "function": {"name": "clock"}}
    [told] = both_chats(daemon, model, tools=TOOLS, tool_choice=choice, max_tokens=400)
    [(name, arguments)] = told.called
    assert ("clock", {"zone"}, "tool_calls") == (name, set(arguments), told.reason)
    assert arguments["zone"] in {"utc", "cet"}


def test_a_single_call_if_asked(daemon: Daemon) -> None:
    """An enforced answer without parallel calls holds one."""
    fields: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
    [told] = both_chats(daemon, "two", tools=TOOLS, max_tokens=400, **fields)
    assert 1 == len(told.calls)


def test_references_in_parameters_find_their_root(daemon: Daemon) -> None:
    """`$defs` of a tool's parameters mean the same inside the enforced call."""
    parameters = {
        "type": "object",
        "properties": {"size": {"$ref": "#/$defs/size"}},
        "required": ["size"],
        "$defs": {"size": {"enum": ["s", "m"]}},
    }
    tools = [{"type": "function", "function": {"name": "order", "parameters": parameters}}]
    fields: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
    [told] = both_chats(daemon, "nothing", max_tokens=400, parallel_tool_calls=False, **fields)
    [(name, arguments)] = told.called
    assert "order" == name
    assert arguments["size"] in {"s", "m"}


def test_a_tool_without_parameters(daemon: Daemon) -> None:
    """Such a call has an object as arguments all the same."""
    tools = [{"type": "function", "function": {"name": "ping"}}]
    fields: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
    [told] = both_chats(daemon, "nothing", max_tokens=400, parallel_tool_calls=False, **fields)
    [(name, arguments)] = told.called
    assert ("ping", dict) == (name, type(arguments))


def test_results_are_fed_back(daemon: Daemon) -> None:
    """The answer's own calls and their results make the next request."""
    message = chat(daemon, "two", tools=TOOLS).json()["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "fine"}
        for call in message["tool_calls"]
    ]
    [told] = both_chats(daemon, "nothing", tools=TOOLS, messages=[*HELLO, message, *results])
    assert ANSWERS["nothing"] == told.content


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": [CLOCK, CLOCK]}),
        ("tools", {"tool_choice": "required"}),
        (
            "tool_choice.function.name",
            {
                "tools": [CLOCK],
                "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            },
        ),
        (
            "guided_regex",
            {"tools": [CLOCK], "tool_choice": "required", "guided_regex": "a"},
        ),
        (
            "tools",
            {"tools": [tool("x", y={"type": "nothing"})], "tool_choice": "required"},
        ),
    ],
)
def test_impossible_tools_are_refused(daemon: Daemon, param: str, fields: dict[str, Any]) -> None:
    """Contradictions and schemas that no call can fit are 400s that name the field."""
    reply = chat(daemon, "one", **fields)
    assert (400, param) == (reply.status, reply.json()["error"]["param"])


def test_an_odd_schema_is_fine_if_not_enforced(daemon: Daemon) -> None:
    """Only an enforced call must compile its schema; otherwise the model just reads it."""
    assert 200 == chat(daemon, "one", tools=[tool("x", y={"type": "nothing"})]).status
