"""Frames on the worker pipe: 4-byte big-endian length, then msgpack. Sans-IO.

`FrameDecoder` takes bytes in any split and gives whole messages; it never executes anything it
reads, so a corrupted worker can do no more than end its own connection.
"""

import struct
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from lmx.errors import FrameError, InvalidRequest
from lmx.protocol.messages import Command, Event

T = TypeVar("T")

LENGTH = struct.Struct(">I")
# A 64 MiB request body, msgpack overhead and room to spare; vLLM's ZMQ path has no cap at all.
MAX_FRAME_BYTES = 128 * 1024 * 1024


class FrameDecoder(Generic[T]):
    """Bytes in, messages out.

    Args:
        message_type: What each frame must decode to.
        max_frame_bytes: Longest payload accepted.
    """

    def __init__(self, message_type: type[T], *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._decoder = msgspec.msgpack.Decoder(message_type)
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an incomplete frame; 0 between frames."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[T]:
        """Add received bytes and return every message that is now complete.

        Raises:
            FrameError: The length is over the cap or the payload is no such message. The
                decoder must not be used again.
        """
        buffer = self._buffer
        buffer += data
        messages: list[T] = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, start)
            if length > self._max_frame_bytes:
                raise FrameError(f"frame of {length} bytes is over {self._max_frame_bytes}")
            end = start + LENGTH.size + length
            if len(buffer) < end:
                break
            messages.append(self._decode(bytes(buffer[start + LENGTH.size : end])))
            start = end
        del buffer[:start]
        return messages

    def _decode(self, payload: bytes) -> T:
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"frame is no message: {error}") from error


def _frame(payload: bytes) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(payload)} bytes is over {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(payload)) + payload


def encode_command(command: Command) -> bytes:
    """One command as one frame.

    Raises:
        InvalidRequest: A message holds an integer over 64 bits or is nested too deeply.
    """
    try:
        return _frame(msgspec.msgpack.encode(command))
    except (OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the messages cannot be sent: {error}", param="messages") from error


def encode_events(events: Sequence[Event]) -> bytes:
    """All events of one engine step as one frame."""
    return _frame(msgspec.msgpack.encode(events))


def command_decoder() -> FrameDecoder[Command]:
    """The worker's side."""
    return FrameDecoder(Command)  # type: ignore[arg-type]  # mypy has no type form for unions


def event_decoder() -> FrameDecoder[list[Event]]:
    """The daemon's side."""
    return FrameDecoder(list[Event])
