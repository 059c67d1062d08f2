"""Boundaries are found by rendering alone, and are ends of tokens in the prompt itself."""

from typing import Any

import pytest

from lmx.engines.fake_tokens import FakeTokenizer
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt
from lmx.worker.boundaries import LEAST_TOKENS, NOWHERE, common_start, find_boundaries
from lmx.worker.dialect import ModelDialect
from lmx.worker.prompt import render_prompt

SYSTEM = {"role": "system", "content": "be brief " * 40}
FIRST = {"role": "user", "content": "0 eggs?"}
ANSWER = {"role": "assistant", "content": "None."}
LAST = {"role": "user", "content": "xyz#"}


def places(messages: list[dict[str, Any]], tokenizer: FakeTokenizer | None = None) -> list[str]:
    """The prompt's text from each boundary on, cut short."""
    tokenizer = tokenizer or FakeTokenizer()
    rendered = render_prompt(ChatPrompt(messages), tokenizer, ModelDialect(tokenizer))
    data = rendered.text.encode()
    return [data[position:].decode()[:12] for position in rendered.boundaries.ends]


def test_boundaries_stand_around_what_users_say() -> None:
    """After the first and the last header, and behind the last message."""
    expected = ["0 eggs?\nassi", "xyz#\nassista", "\nassistant:"]
    assert expected == places([SYSTEM, FIRST, ANSWER, LAST])


def test_the_last_turn_begins_with_what_its_user_says() -> None:
    """Whatever parts there is a new message."""
    prompt, tokenizer = ChatPrompt([SYSTEM, FIRST, ANSWER, LAST]), FakeTokenizer()
    rendered = render_prompt(prompt, tokenizer, ModelDialect(tokenizer))
    at = rendered.boundaries.turn_start
    assert rendered.text.encode()[at:].startswith(b"xyz#")


def test_one_turn_has_two() -> None:
    """The first turn is the last one too."""
    assert ["0 eggs?\nassi", "\nassistant:"] == places([SYSTEM, FIRST])


@pytest.mark.parametrize("messages", [[FIRST], [SYSTEM], [SYSTEM, ANSWER]])
def test_short_prompts_and_those_without_a_user_have_none(messages: list[dict[str, Any]]) -> None:
    """They are not worth a rendering."""
    assert [] == places(messages)


class Fussy(FakeTokenizer):
    """Renders no message of one letter."""

    def render(self, prompt: ChatPrompt) -> str:
        if any(len(message["content"]) == 1 for message in prompt.messages):
            raise InvalidRequest("too short", param="messages")
        return super().render(prompt)


class Merging(FakeTokenizer):
    """Never has a token end in the middle of a text."""

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        return [hash(text) % 100, *super().encode(text)]


@pytest.mark.parametrize("tokenizer", [Fussy(), Merging()])
def test_what_cannot_be_known_is_left_out(tokenizer: FakeTokenizer) -> None:
    """A template may refuse the question, and tokens may stand across the place."""
    assert [] == places([SYSTEM, FIRST, ANSWER, LAST], tokenizer)


def test_the_limit_is_in_tokens() -> None:
    """One token less than the limit is too short."""
    prompt, tokenizer = ChatPrompt([FIRST]), FakeTokenizer()
    text = tokenizer.render(prompt)
    assert NOWHERE == find_boundaries(prompt, text, [1] * (LEAST_TOKENS - 1), tokenizer=tokenizer)


def test_common_start() -> None:
    """Equal texts are alike to the end of the shorter one."""
    cases = {("", "a"): 0, ("abc", "abd"): 2, ("abc", "abc"): 3, ("abc", "ab"): 2, ("b", "a"): 0}
    assert list(cases.values()) == [common_start(*pair) for pair in cases]
