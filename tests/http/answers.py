"""Answers of the generating routes as values: whole ones, and streamed ones folded from chunks.

A fold knows the shape of chunks and nothing of what is in them. It insists on the order that
clients lean on: nothing of a choice after its finish reason.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.daemon_process import Daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, stream_chunks

COMPLETION_PATH = "/v1/completions"
HELLO = ({"role": "user", "content": "hi"},)


class Told(NamedTuple):
    """What one choice of a chat answer says.

    Attributes:
        content: Visible text; None if there is none beside calls.
        reasoning: Text beside the content.
        calls: Id, name and arguments of each call.
        logprobs: Of its tokens; empty if there are none.
        reason: Why it ended.
    """

    content: str | None
    reasoning: str
    calls: list[tuple[str, str, str]]
    logprobs: list[dict[str, Any]]
    reason: str | None

    @property
    def called(self) -> list[tuple[str, Any]]:
        """Name and decoded arguments of each call."""
        return [(name, json.loads(arguments)) for _, name, arguments in self.calls]


def post(daemon: Daemon, path: str, /, **fields: Any) -> Reply:
    """One JSON request on a connection of its own."""
    with Connection(daemon) as connection:
        return connection.ask("POST", path, json.dumps(fields).encode())


def chat(daemon: Daemon, model: str, **fields: Any) -> Reply:
    """One chat of a single user message unless the fields say otherwise."""
    return post(daemon, CHAT_PATH, **{"model": model, "messages": HELLO, **fields})


def whole_chat(daemon: Daemon, model: str, **fields: Any) -> list[Told]:
    """Every choice of an answer that is not streamed."""
    reply = chat(daemon, model, **fields)
    assert 200 == reply.status, reply.body
    choices = reply.json()["choices"]
    assert list(range(len(choices))) == [choice["index"] for choice in choices]
    return [tell(choice) for choice in choices]


def streamed_chat(daemon: Daemon, model: str, **fields: Any) -> list[Told]:
    """Every choice of a streamed answer."""
    reply = chat(daemon, model, stream=True, **fields)
    assert 200 == reply.status, reply.body
    return fold_chat(reply.body)


def both_chats(daemon: Daemon, model: str, **fields: Any) -> list[Told]:
    """Every choice, after checking that streamed and whole agree on all but the ids of calls."""
    whole = whole_chat(daemon, model, **fields)
    streamed = streamed_chat(daemon, model, **fields)
    assert [_without_ids(told) for told in whole] == [_without_ids(told) for told in streamed]
    return whole


def tell(choice: Mapping[str, Any]) -> Told:
    """A choice of a whole answer."""
    message = choice["message"]
    calls = message.get("tool_calls", [])
    return Told(
        message["content"],
        message.get("reasoning_content", ""),
        [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls],
        (choice["logprobs"] or {"content": []})["content"],
        choice["finish_reason"],
    )


def fold_chat(body: bytes) -> list[Told]:
    """The choices of a streamed answer, by index."""
    told: dict[int, Told] = {}
    for chunk in stream_chunks(body):
        for choice in chunk["choices"]:
            index = choice["index"]
            told[index] = _add(told.get(index, Told(None, "", [], [], None)), choice)
    assert sorted(told) == list(range(len(told)))
    return [_settle(told[index]) for index in range(len(told))]


def _add(told: Told, choice: Mapping[str, Any]) -> Told:
    assert told.reason is None, "a chunk after the finish reason"
    delta = choice["delta"]
    calls = delta.get("tool_calls", [])
    assert all(call["type"] == "function" for call in calls)
    assert [len(told.calls) + at for at in range(len(calls))] == [c["index"] for c in calls]
    functions = [(call["id"], call["function"]) for call in calls]
    content = delta.get("content")
    return Told(
        told.content if content is None else (told.content or "") + content,
        told.reasoning + delta.get("reasoning_content", ""),
        told.calls + [(made, f["name"], f["arguments"]) for made, f in functions],
        told.logprobs + (choice["logprobs"] or {"content": []})["content"],
        choice["finish_reason"],
    )


def _settle(told: Told) -> Told:
    """Whole answers say null where there are calls and no text."""
    return told._replace(content=None) if told.calls and not told.content else told


def _without_ids(told: Told) -> Told:
    return told._replace(calls=[("", name, arguments) for _, name, arguments in told.calls])
