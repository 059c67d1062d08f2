"""The chat WebSocket on a real daemon: the same answers as over SSE, and what only a socket has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from trio_websocket import ConnectionRejected

from lmx.engines.fake_tokens import WORDS
from tests.daemon_process import Daemon
from tests.http.answers import Told, chat, fold_chat
from tests.http.shared import shared_daemon
from tests.http.socket_client import ENDS, fold, open_socket
from tests.http.test_reasoning import make_thinker
from tests.http.test_tools import ANSWERS, TOOLS
from tests.http.wire import stream_chunks, wait_until

HEARTBEAT_S = 0.3
MODELS = (
    "fake:quick?tokens=8",
    "fake:slow?step_ms=20&tokens=2000&context=8192&max_sequences=128",
    "fake:stuck?prefill_ms=600000&tokens=2",
)
MULTIPLEXED = 100


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Quick, slow, thinking and tool-calling models, and signs of life more often than usual."""
    home = tmp_path_factory.mktemp("home")
    callers = [f"fake:{name}?text={quote(text)}" for name, text in ANSWERS.items()]
    models = [*MODELS, *callers, str(make_thinker(home / "thinker"))]
    settings = {"LMX_SERVER__HEARTBEAT_S": str(HEARTBEAT_S)}
    with shared_daemon(home, *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def in_flight(daemon: Daemon) -> int:
    """Requests open now."""
    count: int = daemon.get_json("/admin/status")[1]["in_flight_requests"]
    return count


async def wait_idle(daemon: Daemon) -> None:
    """Wait until no request runs."""
    await trio.to_thread.run_sync(
        lambda: wait_until(lambda: in_flight(daemon) == 0) or pytest.fail("a request runs on")
    )


def without_ids(told: Told) -> Told:
    """Call ids are each answer's own."""
    return told._replace(calls=[("", name, arguments) for _, name, arguments in told.calls])


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("quick", {}),
    "seed": ("quick", {"seed": 7, "temperature": 1.0}),
    "choices": ("quick", {"n": 3, "seed": 7, "temperature": 1.0}),
    "limit": ("quick", {"max_tokens": 3}),
    "stop": ("quick", {"stop": ["e"]}),
    "scores": ("quick", {"logprobs": True, "top_logprobs": 2}),
    "call": ("one", {"tools": TOOLS}),
    "calls": ("two", {"tools": TOOLS}),
    "text and call": ("told", {"tools": TOOLS}),
    "odd": ("odd", {"tools": TOOLS}),
    "broken": ("broken", {"tools": TOOLS}),
    "reasoning": ("thinker", {"max_tokens": 20, "temperature": 0}),
    "inline": ("thinker", {"max_tokens": 20, "temperature": 0, "reasoning_format": "inline"}),
    "budget": ("thinker", {"thinking_budget": 4, "guided_regex": "yes!", "temperature": 0}),
    "schema": ("quick", {"guided_json": {"type": "object", "additionalProperties": False}}),
    "nulls": ("quick", dict.fromkeys(["temperature", "stop", "tools", "num_ctx", "top_p"])),
}


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("case", CASES)
async def test_a_socket_says_what_a_stream_of_events_says(
    daemon: Daemon,
    case: str,
    resumable: bool,  # noqa: FBT001  # the parametrised value
) -> None:
    """Text, reasoning, calls, scores, reasons and usage, message by message and resumable alike."""
    model, fields = CASES[case]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chat(daemon, model, **options, **fields)  # both find the prompt in the prefix cache
    streamed = chat(daemon, model, **options, **fields).body
    async with open_socket(daemon) as client:
        messages = await client.answer(model, stream=True, resumable=resumable, **fields)
    expected = fold_chat(streamed)
    assert [without_ids(told) for told in expected] == [
        without_ids(fold(messages, index)) for index in range(len(expected))
    ]
    assert stream_chunks(streamed)[-1]["usage"] == messages[-1]["usage"]
    assert 1 == len([m for m in messages if m["type"] in ENDS])
    assert all(m.get("model", model) == model for m in messages)


async def test_the_request_is_accepted_at_once(daemon: Daemon) -> None:
    """Long before the first token there is a name to cancel by, and it stands in every message."""
    async with open_socket(daemon, limit_s=5) as client:
        await client.ask("stuck")
        first = await client.next()
        assert ("chat.accepted", True) == (first["type"], first["request_id"].startswith("req_"))
        await client.send("chat.cancel", request_id=first["request_id"])
        *_, last = await client.until(*ENDS)
        assert (first["request_id"], "cancelled") == (last["request_id"], last["finish_reason"])
    await wait_idle(daemon)


async def test_a_long_prefill_shows_signs_of_life(daemon: Daemon) -> None:
    """As data messages, because clients time those; of a type they do not know."""
    async with open_socket(daemon, limit_s=10) as client:
        await client.ask("stuck", request_id="mine")
        messages = [await client.next() for _ in range(4)]
    assert ["chat.accepted", *["chat.keepalive"] * 3] == [m["type"] for m in messages]
    assert {"mine"} == {m["request_id"] for m in messages}
    await wait_idle(daemon)


async def test_a_request_that_waits_for_its_model_shows_signs_of_life(tmp_path: Path) -> None:
    """Before anything has started, too."""
    settings = {"LMX_SERVER__HEARTBEAT_S": str(HEARTBEAT_S)}
    model = "fake:late?load_ms=1500&tokens=2"
    with shared_daemon(tmp_path, model, settings=settings, is_ready=False) as daemon:
        async with open_socket(daemon) as client:
            messages = await client.answer("late")
    kinds = [m["type"] for m in messages]
    assert ("chat.accepted", "chat.done") == (kinds[0], kinds[-1])
    assert kinds.count("chat.keepalive") >= 2


async def test_many_requests_share_a_socket(daemon: Daemon) -> None:
    """A hundred at once, all streaming side by side, each with a text and an end of its own."""
    names = [f"r{number}" for number in range(MULTIPLEXED)]
    async with open_socket(daemon, limit_s=60) as client:
        for seed, name in enumerate(names):
            await client.ask("slow", request_id=name, seed=seed, temperature=1.0, max_tokens=20)
        ends = 0
        while ends < MULTIPLEXED:
            ends += (await client.next())["type"] in ENDS
    by_name = {n: [m for m in client.messages if m["request_id"] == n] for n in names}
    assert ["chat.done"] * MULTIPLEXED == [by_name[name][-1]["type"] for name in names]
    texts = [fold(by_name[name]).content for name in names]
    assert len(WORDS) == len(set(texts))
    first_end = next(i for i, m in enumerate(client.messages) if m["type"] == "chat.done")
    begun = {m["request_id"] for m in client.messages[:first_end] if m["type"] == "chat.token"}
    assert set(names) == begun
    for seed in (0, 5, 99):
        fields = {"seed": seed, "temperature": 1.0, "max_tokens": 20}
        (alone,) = fold_chat(chat(daemon, "slow", stream=True, **fields).body)
        assert alone.content == texts[seed]


async def test_one_of_many_is_cancelled(daemon: Daemon) -> None:
    """It ends at once, with the tokens it had; the others go on."""
    async with open_socket(daemon) as client:
        for name in ("a", "b"):
            await client.ask("slow", request_id=name, max_tokens=100 if name == "b" else 2000)
        while not any(m["type"] == "chat.token" for m in client.messages if m["request_id"] == "a"):
            await client.next()
        await client.send("chat.cancel", request_id="a")
        first = (await client.until(*ENDS))[-1]
        assert ("a", "cancelled") == (first["request_id"], first["finish_reason"])
        told = [m for m in client.messages if m["request_id"] == "a" and m["type"] == "chat.token"]
        assert len(told) <= first["usage"]["completion_tokens"] < 200
        second = (await client.until(*ENDS))[-1]
        assert ("b", "length") == (second["request_id"], second["finish_reason"])
        assert 1 == len(
            [m for m in client.messages if m["request_id"] == "a" and m["type"] in ENDS]
        )


async def test_a_word_for_a_request_that_is_over(daemon: Daemon) -> None:
    """Is no error: it may have crossed with the end. Nothing follows that looks like another."""
    async with open_socket(daemon) as client:
        await client.answer("quick", request_id="a")
        for word in ("chat.cancel", "chat.stop_thinking"):
            await client.send(word, request_id="a")
            assert {"type": "chat.not_running", "request_id": "a"} == await client.next()


@pytest.mark.parametrize("resumable", [False, True])
async def test_thinking_is_stopped(daemon: Daemon, resumable: bool) -> None:  # noqa: FBT001
    """The reasoning ends where it is, and the answer follows; the model would have gone on."""
    async with open_socket(daemon) as client:
        await client.ask(
            "thinker",
            request_id="a",
            temperature=0,
            max_tokens=1500,
            ignore_eos=True,
            guided_regex="yes!",
            resumable=resumable,
        )
        await client.until("chat.reasoning")
        await client.send("chat.stop_thinking", request_id="a")
        messages = await client.until(*ENDS)
    told = fold(client.messages)
    assert ("yes!", "stop") == (told.content, told.reason)
    assert messages[-1]["usage"]["completion_tokens"] < 1500
    assert told.reasoning


async def test_thinking_is_stopped_without_a_guide(daemon: Daemon) -> None:
    """Also where nothing else binds the answer."""
    async with open_socket(daemon) as client:
        await client.ask("thinker", request_id="a", temperature=0, max_tokens=1500, ignore_eos=True)
        await client.until("chat.reasoning")
        await client.send("chat.stop_thinking", request_id="a")
        await client.until("chat.token")
        await client.send("chat.cancel", request_id="a")
        await client.until(*ENDS)
    kinds = [m["type"] for m in client.messages if m["type"] in {"chat.reasoning", "chat.token"}]
    assert kinds == sorted(kinds)


async def test_a_client_that_speaks_plainly_is_answered_plainly(daemon: Daemon) -> None:
    """The body of the HTTP route without a type: tokens, then an end with the speed."""
    async with open_socket(daemon, "/ws/stream") as client:
        await client.send(None, model="quick", messages=[{"role": "user", "content": "hi"}])
        while not (await client.next()).get("done"):
            pass
    first, *tokens, last = client.messages
    assert "" == first["token"]
    text = fold_chat(chat(daemon, "quick", stream=True).body)[0].content
    assert text == "".join(m["token"] for m in tokens)
    assert last["stats"]["tokens_per_second"] >= 0
    assert "stop" == last["finish_reason"]
    assert not any("type" in m for m in client.messages)


async def test_errors_of_plain_requests_end_them(daemon: Daemon) -> None:
    """With the words of the error and the end in one."""
    async with open_socket(daemon) as client:
        await client.send(None, model="nowhere", messages=[{"role": "user", "content": "hi"}])
        messages = [await client.next(), await client.next()]
    assert (True, "not_found") == (messages[1]["done"], messages[1]["code"])
    assert "nowhere" in messages[1]["error"]


BAD: dict[str, tuple[str, str]] = {
    "no json": ("{nonsense", "body"),
    "no object": ("[1]", "body"),
    "nothing": ("", "body"),
    "no messages": ('{"type":"chat.request"}', "messages"),
    "wrong type": ('{"type":"chat.request","messages":3}', "messages"),
    "unknown field": (
        '{"type":"chat.request","messages":[{"role":"user","content":"x"}],"frobnicate":1}',
        "frobnicate",
    ),
    "unknown message": ('{"type":"chat.dance"}', "type"),
    "no name to cancel": ('{"type":"chat.cancel"}', "request_id"),
    "name of nothing": ('{"type":"chat.cancel","request_id":""}', "request_id"),
    "nothing to take up": ('{"type":"chat.resume"}', "last_event_id"),
    "out of range": (
        '{"type":"chat.request","messages":[{"role":"user","content":"x"}],"temperature":9}',
        "temperature",
    ),
    "deep": ('{"type":"chat.request","x":' + "[" * 20_000 + "]" * 20_000 + "}", "body"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_messages_get_an_error_and_lose_nothing(daemon: Daemon, case: str) -> None:
    """The error names the field, and the socket goes on."""
    text, param = BAD[case]
    async with open_socket(daemon) as client:
        await client.send_text(text)
        told = await client.next()
        assert ("chat.error", "invalid-request") == (told["type"], told["code"])
        assert (param, True) == (told["param"], isinstance(told["error"], str))
        assert "chat.done" == (await client.answer("quick"))[-1]["type"]


async def test_a_name_is_used_once_at_a_time(daemon: Daemon) -> None:
    """The second is refused without touching the first; after the end the name is free."""
    async with open_socket(daemon) as client:
        await client.ask("slow", request_id="a")
        await client.until("chat.token")
        await client.ask("quick", request_id="a")
        refused = (await client.until("chat.error"))[-1]
        assert ("request_id", False) == (refused["param"], "request_id" in refused)
        await client.send("chat.cancel", request_id="a")
        await client.until("chat.done")
        assert "stop" == (await client.answer("quick", request_id="a"))[-1]["finish_reason"]


@pytest.mark.parametrize("resumable", [False, True])
async def test_an_end_that_is_read_is_the_end(daemon: Daemon, resumable: bool) -> None:  # noqa: FBT001
    """Two hundred times: at once the name is free, and a word for it finds nothing to end."""
    async with open_socket(daemon) as client:
        for _ in range(200):
            messages = await client.answer("quick", request_id="a", resumable=resumable)
            assert ("chat.done", "stop") == (messages[-1]["type"], messages[-1]["finish_reason"])
            await client.answer("quick", request_id="a", resumable=resumable)
            await client.send("chat.cancel", request_id="a")
            assert {"type": "chat.not_running", "request_id": "a"} == await client.next()


@pytest.mark.parametrize("length", [70_000, 33 * 1024 * 1024])
async def test_large_messages_are_taken(daemon: Daemon, length: int) -> None:
    """Whole conversations arrive in one; what does not fit the model is told, not dropped."""
    async with open_socket(daemon, limit_s=50) as client:
        content = "x" * length
        await client.ask("quick", messages=[{"role": "user", "content": content}])
        last = (await client.until(*ENDS))[-1]
        assert ("chat.error", "context_length_exceeded") == (last["type"], last["code"])
        assert "chat.done" == (await client.answer("quick"))[-1]["type"]


async def test_a_message_over_the_limit_closes_the_socket(tmp_path: Path) -> None:
    """With the code for it."""
    settings = {"LMX_SERVER__MAX_BODY_BYTES": "100000"}
    with shared_daemon(tmp_path, "fake:x", settings=settings) as daemon:
        async with open_socket(daemon) as client:
            await client.send_text("x" * 200_000)
            assert 1009 == await client.wait_closed()


async def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    """One over the limit is told; those that run are not touched."""
    settings = {"LMX_SERVER__MAX_SOCKET_REQUESTS": "2"}
    model = "fake:x?step_ms=20&tokens=1000"
    with shared_daemon(tmp_path, model, settings=settings) as daemon:
        async with open_socket(daemon) as client:
            for name in ("a", "b", "c"):
                await client.ask("x", request_id=name)
            refused = (await client.until("chat.error"))[-1]
            assert ("c", "rate_limited") == (refused["request_id"], refused["code"])
            assert refused["retry_after"] > 0
            await client.send("chat.cancel", request_id="a")
            await client.until("chat.done")


async def test_nothing_loaded_is_told_in_the_words_that_clients_know(tmp_path: Path) -> None:
    """As an error of an accepted request, so that the client does not give sockets up."""
    with shared_daemon(tmp_path, "/nonexistent.gguf", is_ready=False) as daemon:
        async with open_socket(daemon) as client:
            messages = await client.answer("anything")
    assert ["chat.accepted", "chat.error"] == [m["type"] for m in messages]
    assert ("no-model-loaded", True) == (
        messages[1]["code"],
        "No model loaded" in messages[1]["error"],
    )


async def test_leaving_the_socket_cancels(daemon: Daemon) -> None:
    """Every request of it, within a step."""
    async with open_socket(daemon) as client:
        for name in ("a", "b", "c"):
            await client.ask("slow", request_id=name)
        await client.until("chat.token")
        assert 3 == in_flight(daemon)
    await wait_idle(daemon)


async def test_pings_are_answered(daemon: Daemon) -> None:
    """While an answer streams."""
    async with open_socket(daemon) as client:
        await client.ask("slow")
        await client.until("chat.token")
        with trio.fail_after(5):
            await client.socket.ping()


async def test_other_paths_are_no_sockets(daemon: Daemon) -> None:
    """The upgrade is refused."""
    with pytest.raises(ConnectionRejected) as refused:
        async with open_socket(daemon, "/v1/elsewhere"):
            pass
    assert 404 == refused.value.status_code


async def test_a_binary_message_is_read_as_text(daemon: Daemon) -> None:
    """Some clients send bytes."""
    async with open_socket(daemon) as client:
        body = {"type": "chat.request", "model": "quick", "messages": [{"role": "user"}]}
        body["messages"] = [{"role": "user", "content": "hi"}]
        await client.socket.send_message(json.dumps(body).encode())
        assert "chat.done" == (await client.until(*ENDS))[-1]["type"]
