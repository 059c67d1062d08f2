"""Prompts are rendered in the first shape the template takes, with tools wherever they fit."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from lmx.engines.fake_tokens import FakeTokenizer
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from lmx.worker.dialect import ModelDialect
from lmx.worker.prompt import Rendered, fold_messages, render_prompt

Messages = list[dict[str, Any]]
Objection = Callable[[Messages], str | None]

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
HERMES = "{{ tools }}<tool_call>{{ messages }}"
LLAMA = '{{ tools }}<|python_tag|>"parameters"<|start_header_id|>'


class PickyTokenizer(FakeTokenizer):
    """A fake tokenizer that shows the messages as JSON and has objections.

    Attributes:
        seen: Every prompt it was asked to render, in order.
    """

    def __init__(
        self, *objections: Objection, template: str = "", ending: str = "", tokens: str = ""
    ) -> None:
        self.template_source = template
        self.special_tokens = frozenset(tokens.split())
        self.seen: list[ChatPrompt] = []
        self._objections = objections
        self._ending = ending

    def render(self, prompt: ChatPrompt) -> str:
        self.seen.append(prompt)
        for objection in self._objections:
            if said := objection(prompt.messages):
                raise InvalidRequest(said, param="messages")
        return json.dumps([prompt.messages, prompt.tools]) + self._ending

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        return [1] * add_beginning + super().encode(text)


def no_late_system(messages: Messages) -> str | None:
    """Mistral and many others: a system message stands first or nowhere."""
    is_late = any(message["role"] == "system" for message in messages[1:])
    return "system must come first" if is_late else None


def no_twins(messages: Messages) -> str | None:
    """Gemma, Llama 2 and others: turns alternate."""
    roles = [message["role"] for message in messages]
    is_twice = any(a == b == "user" for a, b in pairwise(roles))
    return "roles must alternate" if is_twice else None


def no_objects(messages: Messages) -> str | None:
    """Llama 4 and others: arguments of a call are text."""
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    is_object = any(not isinstance(call["function"]["arguments"], str) for call in calls)
    return "arguments must be text" if is_object else None


def never(_messages: Messages) -> str | None:
    """A template that takes nothing."""
    return "never"


def turn(role: str, content: str, **others: Any) -> dict[str, Any]:
    """One message."""
    return {"role": role, "content": content, **others}


def call(arguments: Any) -> dict[str, Any]:
    """An assistant's call of a tool."""
    function = {"name": "look", "arguments": arguments}
    return turn("assistant", "", tool_calls=[{"id": "1", "type": "function", "function": function}])


MIDDLE = [turn("system", "A"), turn("user", "1"), turn("system", "B"), turn("assistant", "2")]
TWINS = [turn("user", "1"), turn("user", "2"), turn("assistant", "3")]
CALLED = [turn("user", "1"), call({"a": "ü"}), turn("tool", "x", tool_call_id="1")]
FOLDED_CALLED = [turn("system", "A"), turn("user", "1"), call('{"a": "ü"}')]


def render(prompt: Prompt, tokenizer: FakeTokenizer) -> Rendered:
    """As the intake does it, with the tokenizer's own dialect."""
    return render_prompt(prompt, tokenizer, ModelDialect(tokenizer))


@pytest.mark.parametrize(
    ("objections", "messages", "shape"),
    [
        ([], MIDDLE, MIDDLE),
        (
            [no_late_system],
            MIDDLE,
            [turn("system", "A\n\nB"), turn("user", "1"), turn("assistant", "2")],
        ),
        (
            [no_late_system],
            [turn("user", "1"), turn("system", "A")],
            [turn("system", "A"), turn("user", "1")],
        ),
        ([no_twins], TWINS, [turn("user", "1\n\n2"), turn("assistant", "3")]),
        ([no_objects], CALLED, [CALLED[0], call('{"a": "ü"}'), CALLED[2]]),
        (
            [no_objects, no_late_system],
            [turn("user", "1"), turn("system", "A"), call({"a": "ü"})],
            FOLDED_CALLED,
        ),
    ],
    ids=["as it is", "systems", "one late system", "twins", "arguments", "both"],
)
def test_the_first_shape_the_template_takes(
    objections: list[Objection], messages: Messages, shape: Messages
) -> None:
    """A conversation stays as it stands if it may, and is made plainer only as far as needed."""
    tokenizer = PickyTokenizer(*objections)
    rendered = render(ChatPrompt(messages, template_kwargs={"x": 1}), tokenizer)
    assert [shape, []] == json.loads(rendered.text)
    assert shape == tokenizer.seen[-1].messages
    assert {"x": 1} == tokenizer.seen[-1].template_kwargs
    assert list(rendered.text.encode()) == rendered.token_ids


def test_a_refusal_of_every_shape_is_the_first_one() -> None:
    """The client hears what the template says of the conversation as it was sent."""
    counts: list[int] = []

    def refuse(messages: Messages) -> str:
        counts.append(len(messages))
        return f"refusal {len(counts)}"

    with pytest.raises(InvalidRequest, match="refusal 1") as caught:
        render(ChatPrompt([*TWINS, call({})]), PickyTokenizer(refuse))
    assert "messages" == caught.value.param
    assert [4, 4, 3, 3] == counts


def test_equal_shapes_are_tried_once() -> None:
    """A plain conversation has one shape."""
    tokenizer = PickyTokenizer(never)
    with pytest.raises(InvalidRequest, match="never"):
        render(ChatPrompt([turn("user", "1")]), tokenizer)
    assert 1 == len(tokenizer.seen)


def test_folding_never_joins_tools_or_calls() -> None:
    """Results stay apart, and so do turns that carry more than text."""
    results = [turn("tool", "x", tool_call_id="1"), turn("tool", "y", tool_call_id="2")]
    messages = [call({}), turn("assistant", "a"), turn("assistant", "b"), *results]
    expected = [call({}), turn("assistant", "a\n\nb"), *results]
    assert expected == fold_messages(messages)


def test_folding_leaves_its_argument_alone() -> None:
    """The shapes are tried one after the other, so none may spoil the next."""
    messages = [turn("user", "1"), turn("system", ""), turn("user", "2")]
    before = json.dumps(messages)
    assert [turn("user", "1\n\n2")] == fold_messages(messages)
    assert before == json.dumps(messages)


def test_a_template_with_tools_gets_them() -> None:
    """A model that was taught a syntax is asked in it and read in it."""
    tokenizer = PickyTokenizer(template=LLAMA)
    rendered = render(ChatPrompt([turn("user", "1")], [TOOL]), tokenizer)
    assert [[turn("user", "1")], [TOOL]] == json.loads(rendered.text)
    assert "llama3" == rendered.dialect


def test_enforced_calls_are_read_as_they_are_enforced() -> None:
    """The grammar writes the common syntax, whatever the model's own is."""
    tokenizer = PickyTokenizer(template=LLAMA)
    prompt = ChatPrompt([turn("user", "1")], [TOOL], must_call=True)
    assert "hermes" == render(prompt, tokenizer).dialect
    assert [TOOL] == tokenizer.seen[0].tools


def test_a_template_with_tools_of_an_unknown_family_is_read_in_the_common_one() -> None:
    """The template shows them; what it teaches, nobody knows."""
    tokenizer = PickyTokenizer(template="{{ tools }}")
    rendered = render(ChatPrompt([turn("user", "1")], [TOOL]), tokenizer)
    assert [[turn("user", "1")], [TOOL]] == json.loads(rendered.text)
    assert "hermes" == rendered.dialect


@pytest.mark.parametrize("own", [[], [turn("system", "Be brief.")]], ids=["alone", "with system"])
def test_a_template_without_tools_gets_them_as_system_message(own: Messages) -> None:
    """They are introduced first, in the common syntax, before the client's own instructions."""
    tokenizer = PickyTokenizer(template="{{ messages }}<|python_tag|>")
    rendered = render(ChatPrompt([*own, turn("user", "1")], [TOOL]), tokenizer)
    prompt = tokenizer.seen[0]
    system, user = prompt.messages
    assert ([], turn("user", "1"), "hermes") == (prompt.tools, user, rendered.dialect)
    assert "system" == system["role"]
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in system["content"]
    assert '<tool_call>\n{"name": "function name", "arguments"' in system["content"]
    assert system["content"].endswith("\n\nBe brief." if own else "</tool_call>")


@pytest.mark.parametrize(
    ("template", "dialect", "reasoning"),
    [
        ("", "none", "none"),
        (HERMES, "hermes", "none"),
        (HERMES + "<think></think>", "hermes", "think"),
        ("<|channel|><|message|>", "harmony", "harmony"),
        ("[TOOL_CALLS][THINK][/THINK]", "mistral", "mistral"),
    ],
)
def test_without_tools_the_answer_is_read_in_the_models_own_dialect(
    template: str, dialect: str, reasoning: str
) -> None:
    """Dialects travel by the names under which the daemon finds them."""
    rendered = render(ChatPrompt([turn("user", "1")]), PickyTokenizer(template=template))
    assert (dialect, reasoning, False) == rendered[2:5]


def test_a_prompt_may_open_the_reasoning() -> None:
    """Only a marker at the very end of the prompt counts."""
    prompt = ChatPrompt([turn("user", "<think>")])
    template = "<think></think>"
    opened = render(prompt, PickyTokenizer(template=template, ending="<think>\n"))
    closed = render(prompt, PickyTokenizer(template=template, ending="<think></think>"))
    assert (True, False) == (opened.in_reasoning, closed.in_reasoning)


@pytest.mark.parametrize("add_beginning", [False, True])
def test_text_is_taken_as_it_is(add_beginning: bool) -> None:  # noqa: FBT001
    """No template, no dialect; the beginning token as the request wants it."""
    rendered = render(TextPrompt("é", add_beginning), PickyTokenizer(template=HERMES))
    assert Rendered("é", [1] * add_beginning + list("é".encode())) == rendered


def test_token_ids_are_taken_as_they_are() -> None:
    """They are spelt for who wants the text, with U+FFFD for what is no UTF-8."""
    ids = [*"é".encode(), 257, 0xC3, 256]
    assert Rendered("é amber\ufffd<end>", ids) == render(TokenPrompt(ids), FakeTokenizer())


@pytest.mark.parametrize("unknown", [283, 2**40, -1])
def test_an_unknown_token_id_is_refused(unknown: int) -> None:
    """The refusal says which one."""
    with pytest.raises(InvalidRequest, match=f"has no token {unknown}$") as caught:
        render(TokenPrompt([1, unknown, 2]), FakeTokenizer())
    assert "prompt" == caught.value.param


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt([])])
def test_an_empty_prompt_is_refused(prompt: Prompt) -> None:
    """There is nothing to go on from."""
    with pytest.raises(InvalidRequest, match="no tokens") as caught:
        render(prompt, FakeTokenizer())
    assert "prompt" == caught.value.param


def test_a_template_without_a_system_role_gets_it_in_the_first_user_turn() -> None:
    """Every system message, wherever it stood, is read before the first question."""

    def no_system(messages: Messages) -> str | None:
        return "no such role" if any(m["role"] == "system" for m in messages) else None

    tokenizer = PickyTokenizer(no_system, no_twins)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be kind."},
    ]
    render(ChatPrompt(messages), tokenizer)
    accepted = [{"role": "user", "content": "Be brief.\n\nBe kind.\n\nHi"}]
    assert accepted == tokenizer.seen[-1].messages
