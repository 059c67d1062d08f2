"""Skills inside chat requests, by a real daemon with real skills: whole, streamed, on a socket."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
import trio
from jsonschema_rs import validator_for

from lmx import __version__
from lmx.schema.openapi import openapi_document
from tests.daemon_process import Daemon, spawn_daemon
from tests.http.answers import HELLO, Told, chat, fold_chat, streamed_chat, whole_chat
from tests.http.shared import shared_daemon
from tests.http.socket_client import ChatSocketClient, fold, open_socket
from tests.http.wire import Connection, chat_request, encode_request, stream_chunks, wait_until
from tests.skill_bench import call

ANSWERS = {
    "adds": (f"So. {call('add', a=2, b=3)}", "It is 5."),
    "errs": (call("add", a="two"), "I cannot."),
    "waits": (call("wait"), "Done."),
    "dares": (call("delete"), "Gone."),
}
ADD: dict[str, Any] = {"skills": ["add"]}
WAIT: dict[str, Any] = {"skills": ["wait"]}
# From a client's leaving to its skill's end.
END_LIMIT_S = 0.5
SERVED = b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"ok"'
MANIFESTS = {
    "wait": "kind: http\nhttp: {{url: 'http://127.0.0.1:{port}/'}}\npermissions: {{network: true}}",
    "delete": "kind: prompt\ntemplate: gone\nrequires_approval: true",
}


class Service:
    """A web service that never answers, and what calls it.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]

    def called(self) -> socket.socket:
        """The next caller, which has been heard."""
        caller, _ = self._listener.accept()
        caller.settimeout(10)
        assert caller.recv(65536).startswith(b"POST")
        return caller


def seconds_to_end(caller: socket.socket) -> float:
    """How long a caller still lives."""
    began_s = time.monotonic()
    try:
        while caller.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """What the skill `wait` calls."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield Service(listener)


def write_skills(home: Path, service: Service) -> None:
    """Two skills beside those that are built in."""
    (home / "skills").mkdir()
    for name, rest in MANIFESTS.items():
        head = f"schema: opta.skills.manifest/v1\nname: {name}\n"
        text = head + rest.format(port=service.port)
        (home / "skills" / f"{name}.yaml").write_text(text)


def model_of(name: str) -> str:
    """The model that gives an answer."""
    text, then = map(quote, ANSWERS[name])
    return f"fake:{name}?text={text}&then={then}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Iterator[Daemon]:
    """A model per answer."""
    home = tmp_path_factory.mktemp("home")
    write_skills(home, service)
    models = [model_of(name) for name in ANSWERS]
    settings = {"LMX_SERVER__HEARTBEAT_S": "0.2"}
    with shared_daemon(home, *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


async def socket_chat(daemon: Daemon, model: str, **fields: Any) -> list[dict[str, Any]]:
    """Every message of an answer on a socket."""
    async with open_socket(daemon) as client:
        return await client.answer(model, **fields)


@pytest.mark.parametrize(
    ("model", "text", "ok"), [("adds", "So.\n\nIt is 5.", True), ("errs", "I cannot.", False)]
)
async def test_one_answer_in_all_spellings(
    daemon: Daemon, model: str, text: str, *, ok: bool
) -> None:
    """Text, end, usage, runs and history are the same whole, streamed and on a socket."""
    whole = chat(daemon, model, **ADD).json()
    options = {"stream_options": {"include_usage": True}}
    chunks = stream_chunks(chat(daemon, model, stream=True, **ADD, **options).body)
    messages = await socket_chat(daemon, model, **ADD)
    expected = Told(text, "", [], [], "stop")
    assert [expected] * 3 == [
        *whole_chat(daemon, model, **ADD),
        *streamed_chat(daemon, model, **ADD),
        fold(messages),
    ]
    streamed = [chunk["skill_event"] for chunk in chunks if "skill_event" in chunk]
    sent = [message["event"] for message in messages if message["type"] == "chat.skill"]
    for events in (streamed, sent):
        assert ["skill.call", "skill.result"] == [event["type"] for event in events]
        assert 1 == len({event["call_id"] for event in events})
    [run] = whole["skill_runs"]
    results = [run, streamed[1], sent[1]]
    assert [(ok, run["output"], run["error"])] * 3 == [
        (one["ok"], one["output"], one["error"]) for one in results
    ]
    [ending] = [chunk for chunk in chunks if "skill_messages" in chunk]
    histories = [one["skill_messages"] for one in (whole, ending, messages[-1])]
    roles = [[message["role"] for message in history] for history in histories]
    assert [["assistant", "tool", "assistant"]] * 3 == roles
    usages = [one["usage"] for one in (whole, chunks[-1], messages[-1])]
    counts = [(one["prompt_tokens"], one["completion_tokens"]) for one in usages]
    assert 1 == len(set(counts)), counts


def test_answers_are_as_described(daemon: Daemon) -> None:
    """Chunks and documents with skills fit the description."""
    whole = chat(daemon, "adds", **ADD).json()
    chunks = stream_chunks(chat(daemon, "adds", stream=True, **ADD).body)
    document = openapi_document(__version__)
    for kind, value in [("ChatCompletion", whole), *[("ChatChunk", chunk) for chunk in chunks]]:
        validator_for({**document, "$ref": f"#/components/schemas/{kind}"}).validate(value)


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
def test_the_cache_header_is_the_first_turns(daemon: Daemon, fields: dict[str, Any]) -> None:
    """As on any answer to that prompt."""
    shown = [chat(daemon, "adds", **fields, **more).headers for more in (ADD, {})]
    known = [headers["x-lmx-cache"].partition(";")[0] for headers in shown]
    assert ["miss", "miss"] == known


def test_the_official_client_reads_the_stream(daemon: Daemon) -> None:
    """It knows no skills and sees one answer."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=30) as client:
        stream = client.chat.completions.create(
            model="adds", messages=[{"role": "user", "content": "hi"}], stream=True, extra_body=ADD
        )
        choices = [choice for chunk in stream for choice in chunk.choices]
    assert "So.\n\nIt is 5." == "".join(choice.delta.content or "" for choice in choices)
    assert not any(choice.delta.tool_calls for choice in choices)
    assert "stop" == choices[-1].finish_reason


async def test_an_unknown_skill_is_refused_everywhere(daemon: Daemon) -> None:
    """404 with the field, also where a stream was asked for; on a socket its last message."""
    for fields in ({}, {"stream": True}):
        reply = chat(daemon, "adds", skills=["add", "none"], **fields)
        error = reply.json()["error"]
        assert (404, "skills[1]", "skill_not_found") == (
            reply.status,
            error["param"],
            error["code"],
        )
    messages = await socket_chat(daemon, "adds", skills=["none"])
    assert ("chat.error", "skills[0]") == (messages[-1]["type"], messages[-1]["param"])


def test_a_decision_is_asked_for_and_obeyed(daemon: Daemon) -> None:
    """The answer ends, the history is sent again with the decision, and the answer goes on."""
    fields: dict[str, Any] = {"skills": ["delete"]}
    first = chat(daemon, "dares", **fields).json()
    [choice] = first["choices"]
    assert "requires_approval" == choice["finish_reason"]
    [pending] = choice["message"]["tool_calls"]
    fields["messages"] = [*HELLO, *first["skill_messages"]]
    for decision, output in ((True, "gone"), (False, None)):
        fields["skill_approvals"] = {pending["id"]: decision}
        reply = chat(daemon, "dares", **fields).json()
        [run] = reply["skill_runs"]
        assert (decision, output, not decision) == (run["ok"], run["output"], run["denied"])
        assert "Gone." == reply["choices"][0]["message"]["content"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
def test_hanging_up_ends_the_skill(
    daemon: Daemon, service: Service, fields: dict[str, Any]
) -> None:
    """Within half a second of it, with its process."""
    with Connection(daemon) as connection:
        connection.send(chat_request("waits", **WAIT, **fields))
        with service.called() as caller:
            connection.close()
            assert END_LIMIT_S > seconds_to_end(caller)
    assert wait_until(lambda: daemon.get_json("/admin/requests")[1]["count"] == 0)


def test_a_skill_with_network_is_another_machine(daemon: Daemon, service: Service) -> None:
    """While one runs nobody on this machine destroys anything without a key; afterwards they do."""

    def destroy() -> int:
        with Connection(daemon) as connection:
            return connection.ask("DELETE", "/admin/models/nowhere", b"").status

    with Connection(daemon) as waiting:
        waiting.send(chat_request("waits", **WAIT))
        with service.called() as caller:
            assert 403 == destroy()
            caller.sendall(SERVED)
        waiting.read_reply()
    assert wait_until(lambda: destroy() == 404)


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_socket_ends_the_skill(daemon: Daemon, service: Service, how: str) -> None:
    """By a word for the request, which gets its one last message, or by closing."""
    async with open_socket(daemon) as client:
        await client.ask("waits", request_id="r", **WAIT)
        began = [message["type"] for message in await client.until("chat.skill", "chat.error")]
        assert "chat.skill" == began[-1]
        await end_waiting(client, service, how)
        if how == "cancel":
            messages = await client.until("chat.done", "chat.error")
            assert ("chat.done", "cancelled") == (
                messages[-1]["type"],
                messages[-1]["finish_reason"],
            )


async def end_waiting(client: ChatSocketClient, service: Service, how: str) -> None:
    """End a request whose skill runs, and see that the skill ends."""
    with await trio.to_thread.run_sync(service.called) as caller:
        if how == "cancel":
            await client.send("chat.cancel", request_id="r")
        else:
            await client.socket.aclose()
        assert END_LIMIT_S > await trio.to_thread.run_sync(partial(seconds_to_end, caller))


def test_signs_of_life_and_a_cancel_by_id(daemon: Daemon, service: Service) -> None:
    """While a skill runs its request is alive, listed, and ended by its id, with an error."""
    with Connection(daemon) as connection:
        connection.send(chat_request("waits", stream=True, **WAIT))
        head = connection.read_head()
        chunks = connection.iterate_chunks()
        with service.called() as caller:
            body = b""
            while b": keep-alive" not in body:
                body += next(chunks)
            [row] = daemon.get_json("/admin/requests")[1]["requests"]
            assert (head.headers["x-request-id"], "skills") == (row["request_id"], row["state"])
            path = f"/admin/requests/{row['request_id']}/cancel"
            with Connection(daemon) as other:
                assert 200 == other.ask("POST", path, b"").status
            assert END_LIMIT_S > seconds_to_end(caller)
        body += b"".join(chunks)
    last = json.loads(body.split(b"data: ")[-1])
    assert "cancelled" == last["code"]


def test_a_cut_stream_goes_on_while_its_skill_runs(daemon: Daemon, service: Service) -> None:
    """A resumable answer loses nothing: the skill ends by itself, and all events are there."""
    with Connection(daemon) as connection:
        connection.send(chat_request("waits", stream=True, resumable=True, **WAIT))
        connection.read_head()
        body = b""
        for chunk in connection.iterate_chunks():
            body += chunk
            if b"skill.call" in body:
                break
    with service.called() as caller:
        caller.sendall(SERVED)
        last_id = body.rpartition(b"id: ")[2].partition(b"\n")[0].decode()
        with Connection(daemon) as connection:
            headers = {"last-event-id": last_id}
            reply = connection.ask("GET", "/v1/chat/completions", headers=headers)
    whole = [block.partition(b"data: ")[2] for block in (body + reply.body).split(b"\n\n")]
    frames = [b"data: " + data for data in whole if data]
    [told] = fold_chat(b"\n\n".join([*frames, b""]))
    assert ("Done.", "stop") == (told.content, told.reason)
    assert [1, 1] == [b"".join(frames).count(kind) for kind in (b"skill.call", b"skill.result")]


def test_a_daemon_that_stops_waits_for_a_call(tmp_path: Path, service: Service) -> None:
    """Longer than for a connection: a skill that a client has called by itself may end, too."""
    write_skills(tmp_path, service)
    with spawn_daemon(tmp_path, "fake:x", settings={"LMX_SERVER__CLOSE_GRACE_S": "0.5"}) as daemon:
        with Connection(daemon) as connection:
            connection.send(encode_request("POST", "/v1/skills/wait/execute", b"{}"))
            with service.called() as caller:
                daemon.process.send_signal(signal.SIGTERM)
                assert wait_until(lambda: bool(daemon.events("stopping")))
                caller.settimeout(1.0)
                with pytest.raises(TimeoutError):
                    seconds_to_end(caller)
                caller.sendall(SERVED)
            reply = connection.read_reply().json()
        assert (True, '"ok"', 0) == (reply["ok"], reply["output"], daemon.process.wait(10))


def test_a_daemon_that_stops_waits_for_the_answer(tmp_path: Path, service: Service) -> None:
    """Asked to while a skill runs, it lets the skill end and the model answer, and then ends."""
    write_skills(tmp_path, service)
    with spawn_daemon(tmp_path, model_of("waits")) as daemon:
        daemon.wait_ready_blocking()
        with Connection(daemon) as connection:
            connection.send(chat_request("waits", stream=True, **WAIT))
            with service.called() as caller:
                daemon.process.send_signal(signal.SIGTERM)
                assert wait_until(lambda: bool(daemon.events("stopping")))
                caller.sendall(SERVED)
            [told] = fold_chat(connection.read_reply().body)
        assert ("Done.", "stop", 0) == (told.content, told.reason, daemon.process.wait(10))
