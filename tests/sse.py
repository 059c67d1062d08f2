"""What an SSE client reads."""

import json
from typing import Any


def events(data: bytes) -> list[Any]:
    """The value of each event; the end marker as its text."""
    frames = data.split(b"\n\n")
    assert b"" == frames.pop()
    assert all(frame.startswith(b"data: ") and b"\n" not in frame for frame in frames)
    texts = [frame.removeprefix(b"data: ") for frame in frames]
    return ["[DONE]" if text == b"[DONE]" else json.loads(text) for text in texts]
