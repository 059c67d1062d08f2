"""Streams cut at random and taken up again are byte for byte what an uncut reader gets."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chat_client import wait_until as wait_until_true
from tests.chat_client import worker_processes
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.socket_client import ENDS, ChatSocketClient, fold, open_socket
from tests.http.wire import CHAT_PATH, Connection, Head, chat_body, encode_request, wait_until

CUTS = 1000
CUTS_PER_ANSWER = 10
COMPLETION_PATH = "/v1/completions"
MODEL = "fake:x?tokens=60&step_ms=1&max_sequences=64"
SLOW = "fake:slow?tokens=3000&step_ms=20&context=8192"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model that answers in some 60 frames, and one that takes a minute."""
    home = tmp_path_factory.mktemp("home")
    with shared_daemon(home, MODEL, SLOW) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == 2)
        yield shared


class Cut:
    """One connection's part of an answer.

    Attributes:
        head: The response's.
        data: Its whole frames, in order.
        is_whole: Whether the answer's end is among them.
    """

    def __init__(self, connection: Connection, request: bytes, limit: float = float("inf")) -> None:
        connection.send(request)
        self.head: Head = connection.read_head()
        held = b""
        self.is_whole = False
        for chunk in connection.iterate_chunks() if self.head.status == 200 else ():
            held += chunk
            if len(held) >= limit:
                break
        else:
            self.is_whole = True
        self.data = b"".join(f + b"\n\n" for f in held.split(b"\n\n")[:-1])

    @property
    def last_id(self) -> str:
        """The id of the last frame; empty if there is none."""
        ids = [line for line in self.data.split(b"\n") if line.startswith(b"id: ")]
        return ids[-1].removeprefix(b"id: ").decode() if ids else ""


def begin(**fields: Any) -> bytes:
    """A resumable chat."""
    body = chat_body("x", stream=True, resumable=True, **fields)
    return encode_request("POST", CHAT_PATH, body)


def go_on(last_id: str, path: str = CHAT_PATH, method: str = "GET") -> bytes:
    """Take a stream up after a frame."""
    return encode_request(method, path, headers={"last-event-id": last_id})


def read(daemon: Daemon, request: bytes, limit: float = float("inf")) -> Cut:
    """One connection's part, then cut."""
    with Connection(daemon) as connection:
        return Cut(connection, request, limit)


def first_of(last_id: str) -> str:
    """The id before an answer's first frame."""
    return last_id.rpartition(":")[0] + ":0"


def without_comments(data: bytes) -> bytes:
    """Signs of life are no part of an answer."""
    return b"".join(f + b"\n\n" for f in data.split(b"\n\n")[:-1] if not f.startswith(b":"))


def test_a_thousand_random_cuts(daemon: Daemon) -> None:
    """Wherever the connection breaks, the pieces are the whole: events, ids and bytes."""
    source = random.Random(6)  # noqa: S311
    cuts = 0
    while cuts < CUTS:
        piece = read(daemon, begin(n=source.choice([1, 2])), source.randrange(1, 6000))
        assert 200 == piece.head.status
        whole = without_comments(piece.data)
        last_id = piece.last_id or pytest.fail("the first read has no frame")
        for _ in range(source.randrange(CUTS_PER_ANSWER)):
            if piece.is_whole:
                break
            cuts += 1
            piece = read(daemon, go_on(last_id), source.randrange(1, 6000))
            whole += without_comments(piece.data)
            last_id = piece.last_id or last_id
        cuts += not piece.is_whole
        whole += without_comments(read(daemon, go_on(last_id)).data)
        again = read(daemon, go_on(first_of(last_id)))
        assert without_comments(again.data) == whole
        assert whole.endswith(b"data: [DONE]\n\n")


def test_the_answer_is_what_it_is_without_cuts(daemon: Daemon) -> None:
    """Without its ids a resumable stream says the same as any other."""
    kept = read(daemon, begin(seed=3, temperature=1.0)).data
    body = chat_body("x", stream=True, seed=3, temperature=1.0)
    plain = read(daemon, encode_request("POST", CHAT_PATH, body)).data
    assert b"id: " not in plain
    assert _said(plain) == _said(kept)


def _said(data: bytes) -> tuple[str, list[str]]:
    """The whole text and how it ended; how it was cut into frames is a matter of time."""
    lines = [line for line in data.split(b"\n") if line.startswith(b"data: {")]
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_either_method_takes_a_stream_up(daemon: Daemon, method: str) -> None:
    """Libraries that repeat their request send the header along; browsers get."""
    piece = read(daemon, begin(), 500)
    rest = read(daemon, go_on(piece.last_id, method=method))
    assert (200, "text/event-stream; charset=utf-8") == (
        rest.head.status,
        rest.head.headers["content-type"],
    )
    assert rest.data.endswith(b"data: [DONE]\n\n")


def test_the_id_may_stand_in_the_query(daemon: Daemon) -> None:
    """For clients that cannot set headers."""
    piece = read(daemon, begin(), 500)
    rest = read(daemon, encode_request("GET", f"{CHAT_PATH}?last_event_id={piece.last_id}"))
    assert rest.data.endswith(b"data: [DONE]\n\n")


def test_completions_are_taken_up_too(daemon: Daemon) -> None:
    """With several prompts in one stream."""
    fields = {"model": "x", "prompt": ["a", "b"], "stream": True, "resumable": True}
    piece = read(daemon, encode_request("POST", COMPLETION_PATH, json.dumps(fields).encode()), 2000)
    rest = read(daemon, go_on(piece.last_id, COMPLETION_PATH))
    whole = read(daemon, go_on(first_of(piece.last_id), COMPLETION_PATH))
    assert without_comments(whole.data) == without_comments(piece.data + rest.data)


def test_two_read_one_answer(daemon: Daemon) -> None:
    """While it goes on; each gets all of it."""
    with Connection(daemon) as connection:
        connection.send(begin())
        connection.read_head()
        chunks = connection.iterate_chunks()
        held = next(chunks)
        last_id = next(line for line in held.split(b"\n") if line.startswith(b"id: "))[4:].decode()
        other = read(daemon, go_on(first_of(last_id)))
        held += b"".join(chunks)
    assert without_comments(held) == without_comments(other.data)


@pytest.mark.parametrize(
    ("last_id", "status", "code"),
    [
        ("req_0123456789abcdef01234567:3", 404, "not_found"),
        ("nonsense", 400, "invalid-request"),
        ("a:b", 400, "invalid-request"),
    ],
)
def test_what_cannot_be_taken_up(daemon: Daemon, last_id: str, status: int, code: str) -> None:
    """A clear error before any stream begins."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", CHAT_PATH, headers={"last-event-id": last_id})
    assert (status, code) == (reply.status, reply.json()["code"])


def test_a_get_without_an_id_says_what_it_needs(daemon: Daemon) -> None:
    """And is no stream."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", CHAT_PATH)
    assert (400, "last_event_id") == (reply.status, reply.json()["error"]["param"])


def test_whole_answers_are_not_resumable(daemon: Daemon) -> None:
    """The field would have no effect, so it is refused."""
    with Connection(daemon) as connection:
        reply = connection.ask("POST", CHAT_PATH, chat_body("x", resumable=True))
    assert (400, "resumable") == (reply.status, reply.json()["error"]["param"])


def test_without_being_asked_a_cut_cancels(daemon: Daemon) -> None:
    """A plain stream ends with its connection, within a step."""
    body = chat_body("slow", stream=True)
    read(daemon, encode_request("POST", CHAT_PATH, body), 500)
    assert wait_until(lambda: _in_flight(daemon) == 0)


def test_a_resumable_stream_outlives_its_connection(daemon: Daemon) -> None:
    """It goes on, and can be ended by its id."""
    body = chat_body("slow", stream=True, resumable=True)
    piece = read(daemon, encode_request("POST", CHAT_PATH, body), 500)
    more = read(daemon, go_on(piece.last_id), 500)
    assert more.data
    assert 1 == _in_flight(daemon)
    answer_id = piece.last_id.partition(":")[0]
    with Connection(daemon) as connection:
        assert 200 == connection.ask("POST", f"/admin/requests/{answer_id}/cancel").status
    assert wait_until(lambda: _in_flight(daemon) == 0)
    end = read(daemon, go_on(piece.last_id))
    assert b'"code":"cancelled"' in end.data


def _in_flight(daemon: Daemon) -> int:
    count: int = daemon.get_json("/admin/status")[1]["in_flight_requests"]
    return count


def test_settings_make_every_stream_resumable(tmp_path: Path) -> None:
    """Unless its request says otherwise; and for as long as they say."""
    settings = {"LMX_SERVER__RESUME": "true", "LMX_SERVER__RESUME_KEEP_S": "0.5"}
    with shared_daemon(tmp_path, "fake:x?tokens=3", settings=settings) as daemon:
        body = chat_body("x", stream=True)
        kept = read(daemon, encode_request("POST", CHAT_PATH, body))
        assert without_comments(read(daemon, go_on(first_of(kept.last_id))).data) == kept.data
        body = chat_body("x", stream=True, resumable=False)
        assert "" == read(daemon, encode_request("POST", CHAT_PATH, body)).last_id
        assert wait_until(lambda: read(daemon, go_on(kept.last_id)).head.status == 404)


async def _cut_socket(client: ChatSocketClient, source: random.Random) -> bool:
    """Read some messages; whether the answer's end is among them."""
    for _ in range(source.randrange(1, 25)):
        if (await client.next())["type"] in ENDS:
            return True
    return False


async def test_sockets_are_cut_and_taken_up(daemon: Daemon) -> None:
    """The same over WebSockets: message for message, and the name stays."""
    source = random.Random(7)  # noqa: S311
    for number in range(60):
        pieces: list[dict[str, Any]] = []
        async with open_socket(daemon) as client:
            await client.ask("x", request_id=f"mine{number}", resumable=True)
            assert "chat.accepted" == (await client.next())["type"]
            is_over = await _cut_socket(client, source)
            pieces += client.messages[1:]
        while not is_over:
            async with open_socket(daemon) as client:
                await client.send("chat.resume", last_event_id=pieces[-1]["event_id"])
                is_over = await _cut_socket(client, source)
                pieces += [m for m in client.messages if m["type"] != "chat.keepalive"]
        async with open_socket(daemon) as client:
            await client.send("chat.resume", last_event_id=first_of(pieces[0]["event_id"]))
            assert pieces == await client.until(*ENDS)
        assert {f"mine{number}"} == {m["request_id"] for m in pieces}
        assert fold(pieces).content


async def test_who_takes_a_socket_request_up_can_cancel_it(daemon: Daemon) -> None:
    """By the name it had; the terminal message is kept like any other."""
    async with open_socket(daemon) as client:
        await client.ask("slow", request_id="mine", resumable=True)
        last_id = (await client.until("chat.token"))[-1]["event_id"]
    async with open_socket(daemon) as client:
        await client.send("chat.resume", last_event_id=last_id)
        await client.until("chat.token")
        await client.send("chat.cancel", request_id="mine")
        end = (await client.until(*ENDS))[-1]
        assert ("cancelled", True) == (end["finish_reason"], "event_id" in end)
        assert end["usage"]["completion_tokens"] > 0
        await client.send("chat.resume", last_event_id=last_id)
        assert end == (await client.until(*ENDS))[-1]
    assert wait_until(lambda: _in_flight(daemon) == 0)


async def test_a_stream_of_events_is_not_taken_up_by_a_socket(daemon: Daemon) -> None:
    """Their bytes differ; the refusal says where it goes on."""
    piece = await trio.to_thread.run_sync(read, daemon, begin(), 500)
    async with open_socket(daemon) as client:
        await client.send("chat.resume", last_event_id=piece.last_id)
        told = await client.next()
    assert ("chat.error", "not_found") == (told["type"], told["code"])
    assert "SSE" in told["error"]


async def test_a_crash_is_kept_as_the_end(tmp_path: Path) -> None:
    """Who comes back after the worker died hears of it, not of a missing stream."""
    with shared_daemon(tmp_path, "fake:x?tokens=2000&step_ms=10") as daemon:
        body = chat_body("x", stream=True, resumable=True)
        request = encode_request("POST", CHAT_PATH, body)
        piece = await trio.to_thread.run_sync(read, daemon, request, 500)
        os.kill(worker_processes(daemon)[0].pid, 9)
        await wait_until_true(lambda: daemon.events("worker ended"))
        end = await trio.to_thread.run_sync(read, daemon, go_on(piece.last_id))
    assert b"worker-broken" in end.data
    assert end.is_whole
