"""Streams of answers whose model calls skills: how they are spelled, and how they end."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.origin import Origin
from lmx.errors import Draining, NoModelLoaded
from lmx.schema.chat_frames import MessageEncoder, PlainEncoder, TypedEncoder
from lmx.schema.chat_reply import THINK_MARKS, ChatStreamEncoder
from lmx.schema.problems import Headers
from lmx.schema.reply import ReplyHead
from lmx.web.skill_stream import LoopEncoder, SkillStream
from tests.skill_bench import ORIGIN, Said, SkillBench, call, open_skills
from tests.sse import events

ADD = call("add", a=2, b=3)
MakeEncoder = Callable[[ReplyHead], LoopEncoder]


def spell_sse(head: ReplyHead) -> LoopEncoder:
    """Server-sent events with token counts."""
    return ChatStreamEncoder(head, include_usage=True, inline_reasoning=THINK_MARKS)


def spell_messages(kind: type[MessageEncoder], head: ReplyHead) -> LoopEncoder:
    """Messages of a socket."""
    return kind("mine", head, marks=None, choice_count=1)


class Client:
    """Takes a stream, as a sink that never blocks or one that always does.

    Attributes:
        data: All that came.
        headers: What came before it.
    """

    def __init__(self, *, is_blocked: bool = False) -> None:
        self.data = b""
        self.headers: Headers = ()
        self.is_blocked = is_blocked
        self.gone = trio.Event()

    async def start(self, first: bytes, headers: Headers = ()) -> "Client":
        """Begin the stream."""
        await trio.lowlevel.checkpoint()
        self.headers = headers
        self.feed(first)
        return self

    def feed(self, data: bytes) -> None:
        """Take it."""
        self.data += data

    async def flush(self) -> None:
        """Wait for as long as the client does not read."""
        await trio.lowlevel.checkpoint()
        if self.is_blocked:
            await self.gone.wait()
            raise trio.BrokenResourceError

    async def follow(
        self,
        bench: SkillBench,
        make_encoder: MakeEncoder = spell_sse,
        *,
        heartbeat_s: float = 10,
        **fields: Any,
    ) -> None:
        """Ask, and take the whole stream."""
        stream = SkillStream(bench.loop(**fields), ORIGIN, make_encoder=make_encoder)
        await stream.perform(self.start, heartbeat_s=heartbeat_s)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What came, line by line."""
        return [json.loads(line) for line in self.data.splitlines()]


def content_of(chunks: list[Any]) -> str:
    """The text of a stream."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


async def test_events_ride_on_chunks_without_text() -> None:
    """A client that knows no skills sees one answer: a role, text, an end, the counts."""
    client = Client()
    async with open_skills("Let me see. " + ADD, "It is 5.") as bench:
        await client.follow(bench)
    *chunks, done = events(client.data)
    assert "[DONE]" == done
    assert "Let me see.\n\nIt is 5." == content_of(chunks)
    roles = [c["choices"][0]["delta"].get("role") for c in chunks if c["choices"]]
    assert ["assistant"] == [role for role in roles if role]
    told = [chunk["skill_event"] for chunk in chunks if "skill_event" in chunk]
    assert ["skill.call", "skill.result"] == [event["type"] for event in told]
    assert {("builtin/add@1.0.0", "add")} == {(e["skill"], e["name"]) for e in told}
    assert ('{"a":2,"b":3}', 5) == (told[0]["arguments"], told[1]["output"])
    bare = [c["choices"] for c in chunks if "skill_event" in c]
    assert [[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]] * 2 == bare
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert ["stop"] == [reason for reason in reasons if reason]
    assert 10 == chunks[-1]["usage"]["completion_tokens"]
    last = next(chunk for chunk in chunks if "skill_messages" in chunk)
    assert ["assistant", "tool", "assistant"] == [m["role"] for m in last["skill_messages"]]
    assert not any("tool_calls" in c["choices"][0]["delta"] for c in chunks[:-1])


async def test_typed_messages_tell_of_skills() -> None:
    """In a type of their own, which other clients ignore."""
    client = Client()
    async with open_skills(ADD, "5") as bench:
        await client.follow(bench, partial(spell_messages, TypedEncoder))
    *_, done = client.messages
    assert ["chat.skill", "chat.skill", "chat.token", "chat.done"] == [
        message["type"] for message in client.messages
    ]
    assert {"mine"} == {message["request_id"] for message in client.messages}
    assert ["skill.call", "skill.result"] == [m["event"]["type"] for m in client.messages[:2]]
    assert ("stop", 10, 3) == (
        done["finish_reason"],
        done["usage"]["completion_tokens"],
        len(done["skill_messages"]),
    )


async def test_plain_messages_tell_of_skills() -> None:
    """Under a key of their own."""
    client = Client()
    async with open_skills(ADD, "5") as bench:
        await client.follow(bench, partial(spell_messages, PlainEncoder))
    call_event, result, token, done = client.messages
    assert ["skill.call", "skill.result"] == [m["skill"]["type"] for m in (call_event, result)]
    assert ("5", True, "stop") == (token["token"], done["done"], done["finish_reason"])


@pytest.mark.parametrize("kind", [None, TypedEncoder])
async def test_a_call_that_waits_is_a_call_of_the_answer(kind: type[MessageEncoder] | None) -> None:
    """An event says that it waits, and the client gets it as it gets its own tools' calls."""
    client = Client()
    spell = spell_sse if kind is None else partial(spell_messages, kind)
    async with open_skills(call("danger")) as bench:
        await client.follow(bench, spell, skills=["danger"])
    if kind is None:
        *chunks, _, _ = events(client.data)
        told = [chunk["skill_event"]["type"] for chunk in chunks if "skill_event" in chunk]
        deltas = [c["choices"][0]["delta"] for c in chunks]
        [[made]] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
        name, reason = made["function"]["name"], chunks[-1]["choices"][0]["finish_reason"]
    else:
        told = [m["event"]["type"] for m in client.messages if m["type"] == "chat.skill"]
        [made] = [m["tool_call"] for m in client.messages if m["type"] == "chat.tool_call"]
        name, reason = made["name"], client.messages[-1]["finish_reason"]
    assert ["skill.call", "skill.approval"] == told
    assert (0, "danger", "requires_approval") == (made["index"], name, reason)


async def test_inline_reasoning_is_closed_before_the_event() -> None:
    """A turn that only thinks and calls leaves no open mark in front of the event."""
    client = Client()
    turns = [Said(f"<think>a</think>{ADD}", reasoning="think"), "5"]
    async with open_skills(*turns) as bench:
        await client.follow(bench)
    *chunks, _ = events(client.data)
    first = next(at for at, chunk in enumerate(chunks) if "skill_event" in chunk)
    assert "<think>a</think>" == content_of(chunks[:first])


async def test_signs_of_life_go_on_while_a_skill_runs(autojump_clock: MockClock) -> None:
    """One for each silence."""
    client = Client()
    async with open_skills(call("wait", s=35), "Done.") as bench:
        await client.follow(bench, skills=["wait"])
    assert 3 == client.data.count(b": keep-alive\n\n")


async def test_a_later_error_ends_the_stream_once() -> None:
    """In band, after what was said."""
    client = Client()
    async with open_skills("So. " + ADD, Said("Well", "error")) as bench:
        await client.follow(bench)
        assert (1, 1, 0, 0) == bench.bench.counts
    *_, last = events(client.data)
    assert "broke" == last["error"]["message"]
    assert 1 == client.data.count(b'"error":{')


async def test_a_refusal_is_raised_before_the_stream() -> None:
    """The status line is still open."""
    client = Client()
    async with open_skills() as bench:
        bench.bench.loader.error = NoModelLoaded("No model loaded")
        with pytest.raises(NoModelLoaded):
            await client.follow(bench)
    assert (b"", []) == (client.data, bench.asked)


async def test_a_client_that_leaves_ends_the_skill(autojump_clock: MockClock) -> None:
    """Cancelling its request cancels the skill at once, and nothing is left open."""
    client = Client()
    async with open_skills(call("wait", s=100)) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.follow, bench, skills=["wait"]))
        await trio.sleep(1)
        assert 1 == bench.skills.running
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
    assert 0 == bench.skills.running
    assert [] == bench.bench.dispatch.running


async def test_a_lost_client_ends_the_skill() -> None:
    """One that reads no more is told of by its sink, bare, and what it asked for ends."""
    client = Client(is_blocked=True)
    async with open_skills(call("wait", s=1000)) as bench, trio.open_nursery() as nursery:

        async def follow() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await client.follow(bench, skills=["wait"])

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        assert 1 == bench.skills.running
        client.gone.set()
    assert 0 == bench.skills.running


async def test_a_slow_client_delays_nothing_but_itself() -> None:
    """Turns and skills go on while it reads nothing."""
    client = Client(is_blocked=True)
    async with open_skills(ADD, "5") as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.follow, bench))
        await wait_all_tasks_blocked()
        assert (2, 0, 0, 0) == bench.bench.counts
        nursery.cancel_scope.cancel()


async def test_an_administrator_ends_a_skill_by_the_requests_id(autojump_clock: MockClock) -> None:
    """It is listed while the skill runs, and its client is told why it ends."""
    client = Client()
    async with open_skills(call("wait", s=100)) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.follow, bench, skills=["wait"]))
        await trio.sleep(1)
        [shown] = bench.bench.dispatch.running
        assert ("req_1", "skills", "m") == (shown.request_id, shown.state, shown.model_id)
        assert bench.bench.dispatch.cancel("req_1")
        await wait_all_tasks_blocked()
        assert not bench.bench.dispatch.cancel("req_1")
    *_, last = events(client.data)
    assert "cancelled" == last["code"]


async def test_a_draining_daemon_lets_the_answer_end(autojump_clock: MockClock) -> None:
    """Its later turns are no new requests, and the daemon is not idle before it has ended."""
    client = Client()
    async with open_skills(call("wait", s=5), "Done.") as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.follow, bench, skills=["wait"]))
        await trio.sleep(1)
        bench.bench.dispatch.drain()
        with trio.move_on_after(2) as early:
            await bench.bench.dispatch.wait_idle()
        assert early.cancelled_caught
        with pytest.raises(Draining), bench.bench.dispatch.hold(Origin("req_2"), "m"):
            pass
        await bench.bench.dispatch.wait_idle()
    assert events(client.data)[-1] == "[DONE]"
    assert 2 == len(bench.asked)


async def test_a_stopping_daemon_tells_why(autojump_clock: MockClock) -> None:
    """After the time to drain the skill is ended, and the stream ends in an error."""
    client = Client()
    async with open_skills(call("wait", s=100)) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.follow, bench, skills=["wait"]))
        await trio.sleep(1)
        bench.bench.dispatch.drain()
        bench.bench.dispatch.revoke()
        await bench.bench.dispatch.wait_idle()
    *_, last = events(client.data)
    assert "the server is stopping" == last["error"]["message"]


async def test_a_resumed_call_is_streamed_before_the_first_turn(autojump_clock: MockClock) -> None:
    """The stream begins as soon as there is a model, not when the skill has ended."""
    client = Client()
    async with open_skills(call("danger", s=9), "Done.") as bench, trio.open_nursery() as nursery:
        answer = await bench.ask(skills=["danger"])
        history = [{"role": "user", "content": "Hi"}, *answer["skill_messages"]]
        approvals = {answer["skill_messages"][0]["tool_calls"][0]["id"]: True}
        follow = partial(client.follow, bench, skills=["danger"], messages=history)
        nursery.start_soon(partial(follow, skill_approvals=approvals))
        await trio.sleep(1)
        assert [b"role", b"skill.call"] == [m for m in (b"role", b"skill.call") if m in client.data]
    *chunks, _ = events(client.data)
    told = [c["skill_event"]["type"] for c in chunks if "skill_event" in c]
    assert (["skill.call", "skill.result"], "Done.") == (told, content_of(chunks))


async def test_thinking_is_stopped_in_the_turn_that_runs() -> None:
    """The word reaches the worker for the turn that is open; between turns it reaches nobody."""
    client = Client()
    async with open_skills(ADD, Said("<think>hm", None)) as bench:
        stream = SkillStream(bench.loop(), ORIGIN, make_encoder=spell_sse)
        stream.stop_thinking()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(stream.perform, client.start, heartbeat_s=10))
            await wait_all_tasks_blocked()
            stream.stop_thinking()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [2] == bench.stopped
