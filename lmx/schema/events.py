"""The daemon's events as server-sent events.

A named event is invisible to a browser's ``onmessage`` and an unnamed one to its listeners by name,
and clients of both kinds exist; so each type is sent in the way its readers listen, a few in both.
Every payload holds its ``type``. Source: HTML Living Standard, section 9.2, for the framing.
"""

import time
from typing import Any

import msgspec
from msgspec import Struct


class EventDocument(Struct, frozen=True, kw_only=True):
    """What every event holds. The other fields are its type's own."""

    type: str
    ts: float


class TakeUpQuery(Struct, frozen=True, kw_only=True):
    """For clients that cannot set ``Last-Event-ID``: the last event they have seen."""

    last_event_id: str | None = None


# What pages listen for with `onmessage`.
UNNAMED = frozenset({"throughput", "memory", "model_event"})
# What some listen for by name and others with `onmessage`.
BOTH = frozenset({"heartbeat", "memory_warning", "memory_critical"})
# The state of a moment, worthless later: not kept for clients that come back.
FLEETING = frozenset(
    {"heartbeat", "throughput", "memory", "download_progress", "quantize_progress"}
)
# How soon a browser comes back after the connection ended.
RETRY_FRAME = b"retry: 3000\n\n"


def encode_event(event_type: str, fields: dict[str, Any], event_id: str = "") -> bytes:
    """One event as one frame, or two.

    Args:
        event_type: Its type.
        fields: JSON-ready.
        event_id: What a client that comes back names as the last it has; empty for none. Of two
            frames it stands on the second, so that half an event is sent again.
    """
    stamp = round(time.time(), 3)
    data = b"data: " + msgspec.json.encode({"type": event_type, **fields, "ts": stamp}) + b"\n\n"
    known = f"id: {event_id}\n".encode() if event_id else b""
    name = f"event: {event_type}\n".encode()
    if event_type in UNNAMED:
        return known + data
    if event_type in BOTH:
        return name + data + known + data
    return known + name + data
