"""``/tokenize``, ``/detokenize`` and ``/apply-template``: what a model makes of a text."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon

CONTEXT = 512
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "naïve ☕"}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One model, whose tokens are bytes."""
    home = tmp_path_factory.mktemp("home")
    with shared_daemon(home, f"fake:x?tokens=4&context={CONTEXT}") as shared:
        yield shared


def answer(daemon: Daemon, path: str, **fields: Any) -> dict[str, Any]:
    """The document of an accepted request."""
    reply = post(daemon, path, **fields)
    assert 200 == reply.status, reply.body
    return dict(reply.json())


@pytest.mark.parametrize("text", ["x", "naïve ☕ — 日本語 🎉", "line\n\ttab ", "a\x00b"])
def test_text_survives_the_round_trip(daemon: Daemon, text: str) -> None:
    """Ids of a text are that text again."""
    ids = answer(daemon, "/tokenize", model="x", prompt=text)["tokens"]
    assert list(text.encode()) == ids
    assert {"prompt": text} == answer(daemon, "/detokenize", model="x", tokens=ids)


def test_counts_and_limit(daemon: Daemon) -> None:
    """The answer says how many ids there are and how many the model takes."""
    document = answer(daemon, "/tokenize", prompt="four")
    assert {"count": 4, "max_model_len": CONTEXT, "tokens": list(b"four")} == document


def test_a_text_longer_than_the_context_is_counted(daemon: Daemon) -> None:
    """Counting is what the route is for, so too long is no error."""
    assert 5 * CONTEXT == answer(daemon, "/tokenize", prompt="x" * 5 * CONTEXT)["count"]


def test_a_conversation_is_what_the_template_makes_of_it(daemon: Daemon) -> None:
    """Tokenised messages are the tokens of the applied template, and what a chat counts."""
    prompt = answer(daemon, "/apply-template", messages=MESSAGES)["prompt"]
    assert "system: Be kind.\nuser: naïve ☕\nassistant:" == prompt
    document = answer(daemon, "/tokenize", messages=MESSAGES)
    assert list(prompt.encode()) == document["tokens"]
    usage = chat(daemon, "x", messages=MESSAGES).json()["usage"]
    assert document["count"] == usage["prompt_tokens"]


def test_tools_stand_in_the_template(daemon: Daemon) -> None:
    """A model without a place for tools gets them in a system message, in the common form."""
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    prompt = answer(daemon, "/apply-template", messages=MESSAGES, tools=[tool])["prompt"]
    assert prompt.startswith("system: You can call functions.")
    assert '"look_up"' in prompt
    assert "<tool_call>" in prompt


def test_whatever_the_model_is_called(daemon: Daemon) -> None:
    """Names resolve as in a chat; an unknown one is a 404."""
    assert 1 == answer(daemon, "/tokenize", model="X", prompt="x")["count"]
    reply = post(daemon, "/tokenize", model="nobody", prompt="x")
    assert (404, "not_found") == (reply.status, reply.json()["code"])


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        ("/tokenize", "prompt", {}),
        ("/tokenize", "prompt", {"prompt": "x", "messages": MESSAGES}),
        ("/tokenize", "prompt", {"prompt": 5}),
        ("/tokenize", "messages", {"messages": []}),
        ("/tokenize", "add_special_tokens", {"messages": MESSAGES, "add_special_tokens": True}),
        ("/tokenize", "text", {"prompt": "x", "text": "y"}),
        ("/tokenize", "messages", {"messages": [{"role": "user", "content": "refuse me"}]}),
        ("/detokenize", "tokens", {}),
        ("/detokenize", "tokens[0]", {"tokens": [-1]}),
        ("/detokenize", "tokens[1]", {"tokens": [1, "a"]}),
        ("/apply-template", "messages", {}),
        ("/apply-template", "messages[0].role", {"messages": [{"role": "boss"}]}),
        ("/apply-template", "chat_template_kwargs.messages", {
            "messages": MESSAGES, "chat_template_kwargs": {"messages": []},
        }),
    ],
)  # fmt: skip
def test_refusals(daemon: Daemon, path: str, param: str, fields: dict[str, Any]) -> None:
    """What cannot be answered is a 400 that names the field."""
    reply = post(daemon, path, **fields)
    assert (400, param) == (reply.status, reply.json()["error"]["param"]), reply.body


def test_an_unknown_id_is_refused(daemon: Daemon) -> None:
    """A number that is no token is a client's mistake, named by the field it stands in."""
    reply = post(daemon, "/detokenize", tokens=[65, 9999])
    assert 400 == reply.status
    assert "9999" in reply.json()["error"]["message"]
    assert "tokens" == reply.json()["error"]["param"]


def test_nothing_is_nothing(daemon: Daemon) -> None:
    """No ids are the empty text, and the empty text has no ids."""
    assert {"prompt": ""} == answer(daemon, "/detokenize", tokens=[])
    assert ([], 0) == tuple(
        answer(daemon, "/tokenize", prompt="")[key] for key in ("tokens", "count")
    )
