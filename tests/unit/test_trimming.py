"""A conversation within a client's limit: the oldest exchanges go, and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.fake_tokens import FakeTokenizer
from lmx.protocol.messages import ChatPrompt
from lmx.schema.completion_request import parse_completion_request, to_generates
from lmx.worker.dialect import ModelDialect
from lmx.worker.trimming import render_within
from tests.chat_bodies import ask

Messages = list[dict[str, Any]]
TOKENIZER = FakeTokenizer()
OWN = ModelDialect(TOKENIZER, "")
TALK: Messages = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": ""},
    {"role": "tool", "content": "result"},
    {"role": "user", "content": "two"},
    {"role": "system", "content": "late"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "three"},
]


def lines(messages: Messages) -> list[str]:
    """As the fake template spells them."""
    return [f"{m['role']}: {m['content']}" for m in messages]


def trim(messages: Messages, limit_tokens: int) -> list[str]:
    """The lines that are left, without the one that asks for the answer."""
    rendered = render_within(ChatPrompt(messages), TOKENIZER, OWN, limit_tokens=limit_tokens)
    assert list(rendered.text.encode()) == rendered.token_ids
    return rendered.text.split("\n")[:-1]


WHOLE = len("\n".join([*lines(TALK), "assistant:"]))
SECOND = [TALK[0], *TALK[4:]]
LAST = [TALK[0], TALK[5], TALK[7]]


@pytest.mark.parametrize(
    ("limit_tokens", "left"),
    [
        (10**6, TALK),
        (WHOLE, TALK),
        (WHOLE - 1, SECOND),
        (len("\n".join([*lines(SECOND), "assistant:"])), SECOND),
        (len("\n".join([*lines(SECOND), "assistant:"])) - 1, LAST),
        (1, LAST),
    ],
)
def test_whole_exchanges_go(limit_tokens: int, left: Messages) -> None:
    """What the system says stays, a call and its result go together, and the last turn is there."""
    assert lines(left) == trim(TALK, limit_tokens)


def test_without_a_user_nothing_goes() -> None:
    """There is no place to begin."""
    talk = [{"role": "assistant", "content": "x" * 50}, {"role": "assistant", "content": "y"}]
    assert lines(talk) == trim(talk, 10)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 1500))
def test_no_more_goes_than_must(sizes: list[int], limit_tokens: int) -> None:
    """One exchange more would be too many, or there is none."""
    talk = [{"role": "user", "content": "x" * size} for size in sizes]
    left = trim(talk, limit_tokens)
    assert lines(talk)[len(talk) - len(left) :] == left
    asked = len("\n".join([*left, "assistant:"]))
    assert asked <= limit_tokens or len(left) == 1
    if len(left) < len(talk):
        assert asked + len(lines(talk)[-len(left) - 1]) + 1 > limit_tokens


def test_the_context_may_be_limited() -> None:
    """By the client, in chats and in completions; null is no limit."""
    assert 4096 == ask(num_ctx=4096).context_tokens
    assert None is ask(num_ctx=None).context_tokens
    body = b'{"prompt": "a", "num_ctx": 512}'
    (generate,) = to_generates(parse_completion_request(body), default_temperature=0)
    assert 512 == generate.context_tokens
