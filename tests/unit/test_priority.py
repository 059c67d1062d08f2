"""A request's priority, from its field, from headers, and down to the engine thread."""

import json
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.dispatch import Dispatch
from lmx.daemon.origin import Caller, Origin, sign
from lmx.daemon.poison import fingerprint
from lmx.errors import InvalidRequest
from lmx.protocol.messages import Embed, Generate, Started
from lmx.schema.chat_request import parse_chat_request, to_generate
from lmx.schema.completion_request import parse_completion_request, to_generates
from lmx.schema.priority import choose_priority, read_priority_headers
from lmx.web.exchange import Exchange, header_priority
from tests.fakes import finished, generate, open_bench

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
CALLER = Caller("key-1", "salt-1")


def chat_priority(fields: dict[str, object], default: int = 0) -> int:
    """What a chat request with these fields has."""
    request = parse_chat_request(json.dumps({**CHAT, **fields}).encode())
    return to_generate(
        request, default_max_tokens=7, default_temperature=1.0, default_priority=default
    ).priority


@pytest.mark.parametrize(
    ("said", "expected"),
    [(0, 0), (-100, -100), (100, 100), ("interactive", -10), ("normal", 0), ("batch", 10)],
)
def test_a_priority_is_a_number_or_a_word(said: object, expected: int) -> None:
    """And it counts, whatever the headers say."""
    assert expected == chat_priority({"priority": said}, default=42)


@pytest.mark.parametrize("fields", [{}, {"priority": None}])
def test_without_one_the_headers_count(fields: dict[str, object]) -> None:
    """A request that does not say has what its headers said."""
    assert 42 == chat_priority(fields, default=42)


@pytest.mark.parametrize("said", [-101, 101, 1.5, "urgent", True, [1]])
def test_a_priority_that_makes_no_sense_is_refused(said: object) -> None:
    """The refusal names the field."""
    with pytest.raises(InvalidRequest) as caught:
        chat_priority({"priority": said})
    assert "priority" == caught.value.param


def test_every_prompt_of_a_completion_has_it() -> None:
    """One request's prompts are as urgent as each other."""
    body = json.dumps({"prompt": ["a", "b"], "priority": "batch"}).encode()
    request = parse_completion_request(body)
    generates = to_generates(request, default_temperature=1.0, default_priority=-3)
    assert [10, 10] == [one.priority for one in generates]


@pytest.mark.parametrize(
    ("priority", "lane", "expected"),
    [
        ("", "", 0),
        ("5", "", 5),
        (" -7 ", "throughput", -7),
        ("999", "", 100),
        ("-999", "", -100),
        ("Batch", "interactive", 10),
        ("", "interactive", -10),
        ("", "Throughput", 10),
        ("high", "throughput", 10),
        ("high", "slow", 0),
        ("1e3", "", 0),
        ("9" * 5000, "interactive", -10),
    ],
)
def test_headers_are_read_as_far_as_they_make_sense(
    priority: str, lane: str, expected: int
) -> None:
    """The number or word first, then the lane; nothing in them is ever an error."""
    assert expected == read_priority_headers(priority, lane)
    headers = [(b"x-priority", priority.encode()), (b"x-serving-lane", lane.encode())]
    assert expected == header_priority({"headers": headers})


def test_no_field_means_the_default() -> None:
    """Zero is a priority of its own, not the lack of one."""
    assert (9, 0) == (choose_priority(None, 9), choose_priority(0, 9))


def test_a_request_is_signed_by_who_sent_it() -> None:
    """Client and salt go down with it; what makes no text has no turn of its own."""
    signed = sign(generate(), CALLER)
    assert isinstance(signed, Generate)
    assert ("key-1", "salt-1") == (signed.client, signed.salt)
    embed = Embed(0, ["a"])
    assert sign(embed, CALLER) is embed


async def test_the_worker_hears_whose_it_is(autojump_clock: object) -> None:
    """What the origin says of the caller is in the command that the worker gets."""
    async with open_bench() as (bench, requests):
        requests.start_soon(ask, bench.dispatch, Origin(caller=CALLER))
        await wait_all_tasks_blocked()
        (command,) = bench.worker.commands()
        assert isinstance(command, Generate)
        assert ("key-1", "salt-1") == (command.client, command.salt)
        bench.worker.send(Started(1, 3), finished(1))


async def ask(dispatch: Dispatch, origin: Origin) -> None:
    """Open a reply and leave when it has started."""
    async with dispatch.open(generate(), model_name="m", origin=origin):
        await trio.lowlevel.checkpoint()


def test_a_fatal_request_is_known_whoever_sends_it() -> None:
    """Neither caller nor priority makes another request of it."""
    one = generate()
    other = sign(Generate(5, one.prompt, one.samplings, one.stop, priority=10), CALLER)
    assert fingerprint(one) == fingerprint(other)


async def test_an_exchange_says_whose_it_is() -> None:
    """Its origin holds what the door found out, and nobody where there was no door."""
    nobody: Any = None
    await trio.lowlevel.checkpoint()
    scope = {"headers": [], "state": {}, "extensions": {}, "lmx.caller": CALLER}
    assert CALLER == Exchange(scope, nobody, nobody).origin("/x").caller
    del scope["lmx.caller"]
    assert Caller() == Exchange(scope, nobody, nobody).origin("/x").caller
