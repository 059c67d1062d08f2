"""One chat request, streamed and read whole: its text, its token counts and when text arrived.

For what happens one request at a time; `scripts.bench.load` is for many at once and reads no text.
"""

import json
import time
import urllib.request
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

PATH = "/v1/chat/completions"
DATA = b"data: "
TIMEOUT_S = 900.0


@dataclass
class Answer:
    """What came of one request. Times in seconds since it was sent.

    Attributes:
        texts: Of each choice by its index.
        first_s: When each choice's first text arrived.
        total_s: Until the stream's end.
        prompt_tokens: As the server counts them.
        cached_tokens: Of these, those it had computed before; 0 where it does not say.
        completion_tokens: Of all choices.
    """

    texts: dict[int, str] = field(default_factory=dict)
    first_s: dict[int, float] = field(default_factory=dict)
    total_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def text(self) -> str:
        """The first choice's."""
        return self.texts.get(0, "")

    @property
    def ttft_s(self) -> float:
        """Until the first text of any choice; all of the answer's time if there was none."""
        return min(self.first_s.values(), default=self.total_s)

    @property
    def all_begun_s(self) -> float:
        """Until every choice had begun."""
        return max(self.first_s.values(), default=self.total_s)

    def take(self, document: dict[str, Any], now_s: float) -> None:
        """Add one chunk."""
        for choice in document.get("choices", ()):
            index = choice.get("index", 0)
            if text := (choice.get("delta") or {}).get("content"):
                self.first_s.setdefault(index, now_s)
                self.texts[index] = self.texts.get(index, "") + text
        if usage := document.get("usage"):
            self.prompt_tokens = usage["prompt_tokens"]
            self.completion_tokens = usage["completion_tokens"]
            details = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = details.get("cached_tokens") or 0


def ask(port: int, body: bytes) -> Answer:
    """Send a streamed chat request and read its answer.

    Raises:
        RuntimeError: The server refused it, or broke off with an error.
    """
    headers = {"content-type": "application/json", "connection": "close"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        connection.connect()
        began_s = time.perf_counter()
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"refused with {response.status}: {response.read(500)!r}")
        return read_answer(response, began_s)


def read_answer(lines: Iterable[bytes], began_s: float) -> Answer:
    """Read the lines of an event stream as they come.

    Args:
        lines: The lines.
        began_s: When the request was sent, on the clock of `time.perf_counter`.

    Raises:
        RuntimeError: An event tells of an error.
    """
    answer = Answer()
    for line in lines:
        payload = line.removeprefix(DATA).strip()
        if payload == line.strip() or payload == b"[DONE]":
            continue
        document = json.loads(payload)
        if "error" in document:
            raise RuntimeError(f"broken off: {document['error']}")
        answer.take(document, time.perf_counter() - began_s)
    answer.total_s = time.perf_counter() - began_s
    return answer


def post(port: int, path: str, body: dict[str, Any]) -> None:
    """Send a small request and read its answer.

    Raises:
        urllib.error.HTTPError: The server refused it.
    """
    request = urllib.request.Request(  # our own loopback address
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60):  # noqa: S310
        pass
