"""``lmx chat`` without a terminal, and what its commands do."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmx.cli.chat_prompt import ChatPrompt
from lmx.cli.chat_saving import save_conversation
from lmx.cli.client import Client
from lmx.cli.conversation import Conversation, Options
from lmx.cli.exits import CommandFailed
from lmx.cli.target import Target
from tests.cli_fakes import FakeDaemon, fake_daemon, refusal, run_lmx, sse

CHAT = "POST /v1/chat/completions"


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One event of a stream."""
    return {"model": "org/m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
STREAM = sse(
    chunk(role="assistant"),
    chunk(reasoning_content="Hm."),
    chunk(content="Hello"),
    chunk(content=" you"),
    chunk("stop"),
    USAGE,
)


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A daemon with one answer."""
    with fake_daemon() as daemon:
        daemon.answers = {CHAT: STREAM}
        yield daemon


def test_the_answer_alone_goes_down_the_pipe(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The question comes from standard input; reasoning is not part of the answer."""
    outcome = run_lmx("chat", "-m", "m", home=tmp_path, daemon=daemon, stdin="hi\n")
    assert (0, "Hello you\n", "") == tuple(outcome)
    body = daemon.bodies(CHAT)[0]
    assert [{"role": "user", "content": "hi"}] == body["messages"]
    assert ("m", True) == (body["model"], body["stream"])


def test_a_question_may_be_an_argument(daemon: FakeDaemon, tmp_path: Path) -> None:
    """With a system message and a temperature; --verbose tells tokens on standard error."""
    outcome = run_lmx(
        *("chat", "what", "now?", "-s", "Be brief.", "--temperature", "0.5", "--verbose"),
        home=tmp_path,
        daemon=daemon,
    )
    assert (0, "Hello you\n") == (outcome.status, outcome.out)
    assert "7 + 3 tokens" in outcome.err
    body = daemon.bodies(CHAT)[0]
    assert ["Be brief.", "what now?"] == [one["content"] for one in body["messages"]]
    assert ("auto", 0.5) == (body["model"], body["temperature"])


def test_json_is_the_whole_answer(daemon: FakeDaemon, tmp_path: Path) -> None:
    """One document with answer, reasoning and counts."""
    document = run_lmx("chat", "hi", "--json", home=tmp_path, daemon=daemon).document
    expected = {
        "model": "org/m",
        "content": "Hello you",
        "reasoning": "Hm.",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 3,
    }
    assert expected.items() <= document.items()


def test_an_answer_that_was_cut_off_says_so(daemon: FakeDaemon, tmp_path: Path) -> None:
    """On standard error, beside the answer."""
    daemon.answers[CHAT] = sse(chunk(content="a"), chunk("length"))
    outcome = run_lmx("chat", "hi", home=tmp_path, daemon=daemon)
    assert (0, "a\n") == (outcome.status, outcome.out)
    assert "reached its limit of tokens" in outcome.err


@pytest.mark.parametrize("is_late", [False, True])
def test_a_failure_is_one_sentence(daemon: FakeDaemon, tmp_path: Path, *, is_late: bool) -> None:
    """Before the answer, or inside of it after what came of it."""
    error = refusal("no-model-loaded", "No model loaded")
    daemon.answers[CHAT] = sse(chunk(content="a"), error) if is_late else (503, error)
    outcome = run_lmx("chat", "hi", home=tmp_path, daemon=daemon)
    assert (1, "lmx: No model loaded\n") == (outcome.status, outcome.err)
    assert ("a\n" if is_late else "") == outcome.out


def test_no_question_is_wrong_usage(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nothing is sent."""
    assert 2 == run_lmx("chat", home=tmp_path, daemon=daemon).status
    assert [] == daemon.asked


def test_a_conversation_remembers(daemon: FakeDaemon) -> None:
    """Each turn is sent with those before it, until they are forgotten; a failed one is not."""
    conversation = Conversation(Client(Target(daemon.url)), Options(model="m"))
    conversation.ask("one", lambda *_: None)
    daemon.answers[CHAT] = (503, refusal("draining", "it stops"))
    with pytest.raises(CommandFailed):
        conversation.ask("two", lambda *_: None)
    daemon.answers[CHAT] = STREAM
    conversation.ask("three", lambda *_: None)
    sent = [[one["content"] for one in body["messages"]] for body in daemon.bodies(CHAT)]
    assert [["one"], ["one", "Hello you", "two"], ["one", "Hello you", "three"]] == sent
    conversation.clear()
    assert [] == conversation.document()["messages"]


def test_what_was_said_before_an_interruption_is_kept(daemon: FakeDaemon) -> None:
    """Ctrl-C while an answer comes leaves question and beginning in the conversation."""
    conversation = Conversation(Client(Target(daemon.url)), Options(model="m"))

    def interrupt(kind: str, _text: str) -> None:
        if kind == "content":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask("one", interrupt)
    assert ["one", "Hello"] == [one["content"] for one in conversation.messages]


def test_conversations_are_saved(daemon: FakeDaemon, tmp_path: Path) -> None:
    """As a request or as Markdown; what is there stays, and a missing name is told."""
    conversation = Conversation(Client(Target(daemon.url)), Options(model="m", system="Be brief."))
    conversation.ask("one", lambda *_: None)
    saved = json.loads(save_conversation(conversation, str(tmp_path / "a.json")).read_text())
    assert ["Be brief.", "one", "Hello you"] == [one["content"] for one in saved["messages"]]
    text = save_conversation(conversation, str(tmp_path / "a.md")).read_text()
    assert text.startswith("# m\n\n## system\n\nBe brief.\n")
    for name in ("", str(tmp_path / "a.md")):
        with pytest.raises(CommandFailed):
            save_conversation(conversation, name)


def test_the_history_is_private(tmp_path: Path) -> None:
    """What was typed is for its owner alone."""
    ChatPrompt(tmp_path / "new" / "history").close()
    assert 0o600 == stat.S_IMODE((tmp_path / "new" / "history").stat().st_mode)
