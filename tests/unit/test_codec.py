"""Frames survive any split of bytes, and nothing but a `FrameError` comes of bad ones."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import FrameError, InvalidRequest
from lmx.protocol.codec import (
    LENGTH,
    FrameDecoder,
    command_decoder,
    encode_command,
    encode_events,
    event_decoder,
)
from lmx.protocol.messages import Cancel, ChatPrompt, Command, Event, Generate, Shutdown
from lmx.protocol.values import Sampling
from tests.strategies import COMMANDS, EVENTS, cuts_of


def generate_with(value: Any) -> Generate:
    """A request whose one message holds `value`."""
    prompt = ChatPrompt([{"role": "user", "tool_calls": value}])
    return Generate(1, prompt, [Sampling(1)], [])


@given(st.data(), st.lists(COMMANDS, max_size=4))
def test_commands_survive_any_split(data: st.DataObject, commands: list[Command]) -> None:
    """Commands come out equal, in order and once, however the bytes were cut."""
    stream = b"".join(encode_command(command) for command in commands)
    decoder = command_decoder()
    received = [c for piece in data.draw(cuts_of(stream)) for c in decoder.feed(piece)]
    assert commands == received
    assert 0 == decoder.buffered_bytes


@given(st.data(), st.lists(st.lists(EVENTS, max_size=3), max_size=3))
def test_events_survive_any_split(data: st.DataObject, steps: list[list[Event]]) -> None:
    """The events of each step come out as one list, however the bytes were cut."""
    stream = b"".join(encode_events(events) for events in steps)
    decoder = event_decoder()
    received = [step for piece in data.draw(cuts_of(stream)) for step in decoder.feed(piece)]
    assert steps == received


def test_a_message_comes_out_with_its_last_byte() -> None:
    """Nothing is given before a frame is whole, and nothing is kept back after."""
    frame = encode_command(Cancel(7))
    decoder = command_decoder()
    assert [] == [c for i in range(len(frame) - 1) for c in decoder.feed(frame[i : i + 1])]
    assert len(frame) - 1 == decoder.buffered_bytes
    assert [Cancel(7)] == decoder.feed(frame[-1:])
    assert 0 == decoder.buffered_bytes


@given(st.binary(max_size=64))
def test_garbage_payload_is_a_frame_error_or_a_message(payload: bytes) -> None:
    """Whatever a well-framed payload holds, the decoder raises `FrameError` or gives messages."""
    frame = LENGTH.pack(len(payload)) + payload
    for decoder in (command_decoder(), event_decoder()):
        with suppress(FrameError):
            assert isinstance(decoder.feed(frame), list)


@given(st.binary(max_size=200))
def test_garbage_stream_is_a_frame_error_or_messages(data: bytes) -> None:
    """Whatever bytes arrive, the decoder raises nothing but `FrameError`."""
    with suppress(FrameError):
        event_decoder().feed(data)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        msgspec.msgpack.encode([99]),
        msgspec.msgpack.encode([2]),
        msgspec.msgpack.encode([2, "seven"]),
        msgspec.msgpack.encode({"tag": 2}),
        encode_command(Cancel(1))[LENGTH.size :] + b"\x00",
        b"\x91" * 100_000,
        b"\xa1\xff",
    ],
    ids=["empty", "tag", "field", "type", "map", "trailing", "deep", "utf-8"],
)
def test_a_bad_payload_is_a_frame_error(payload: bytes) -> None:
    """A payload that is no command raises `FrameError`."""
    with pytest.raises(FrameError):
        command_decoder().feed(LENGTH.pack(len(payload)) + payload)


def test_an_oversized_frame_is_refused_before_it_arrives() -> None:
    """A length over the cap raises at once, without waiting for the payload."""
    decoder: FrameDecoder[Any] = FrameDecoder(Any, max_frame_bytes=10)
    with pytest.raises(FrameError, match="11 bytes is over 10"):
        decoder.feed(LENGTH.pack(11))


def test_a_frame_of_exactly_the_cap_passes() -> None:
    """The cap itself is allowed."""
    payload = msgspec.msgpack.encode("x" * 9)
    decoder: FrameDecoder[Any] = FrameDecoder(Any, max_frame_bytes=len(payload))
    assert ["x" * 9] == decoder.feed(LENGTH.pack(len(payload)) + payload)


def test_frames_are_length_then_msgpack() -> None:
    """The format is a big-endian 32-bit length and an array that begins with a small tag."""
    assert b"\x00\x00\x00\x02\x91\x03" == encode_command(Shutdown())
    assert b"\x00\x00\x00\x03\x92\x02\x05" == encode_command(Cancel(5))
    assert b"\x00\x00\x00\x01\x90" == encode_events([])


@pytest.mark.parametrize("too_big", [2**64, -(2**63) - 1], ids=["over", "under"])
def test_an_integer_no_frame_can_carry_is_the_clients_fault(too_big: int) -> None:
    """A message with an integer beyond 64 bits is an `InvalidRequest`, not a crash."""
    with pytest.raises(InvalidRequest) as caught:
        encode_command(generate_with(too_big))
    assert "messages" == caught.value.param


def test_nesting_no_frame_can_carry_is_the_clients_fault() -> None:
    """A message nested deeper than the encoder goes is an `InvalidRequest`, not a crash."""
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(InvalidRequest) as caught:
        encode_command(generate_with(value))
    assert "messages" == caught.value.param
