"""What clients of a storm do: ask for one answer and write down how it ended."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import trio

from scripts.storm.daemon import StormFailed

REQUEST_LIMIT_S = 120.0
FIRST_ERROR_STATUS = 400
Ending = Literal["completed", "failed", "broken"]


@dataclass
class Outcome:
    """One request. Times are seconds of the epoch.

    Attributes:
        model: What was asked.
        is_streamed: As SSE.
        began_s: When it was sent.
        first_s: When the first text came, 0 before.
        ended_s: When its last byte came.
        status: HTTP status, 0 without a response.
        ending: ``failed`` means with a typed error, ``broken`` without any terminal word.
        code: The error's.
        detail: The error in words.
    """

    model: str
    is_streamed: bool
    began_s: float
    first_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    ending: Ending = "broken"
    code: str = ""
    detail: str = ""


class Asker:
    """Sends chat requests to one daemon.

    Args:
        http: Connections to it.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(
        self,
        model: str,
        prompt: str,
        *,
        max_tokens: int,
        is_streamed: bool,
        first_text: trio.Event | None = None,
    ) -> Outcome:
        """Send one request and read its answer to the end.

        Args:
            model: Its id.
            prompt: What the user says.
            max_tokens: Length of the answer.
            is_streamed: Ask for SSE.
            first_text: Set when the first text comes, or when the answer is over.
        """
        outcome = Outcome(model, is_streamed, time.time())
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": is_streamed,
        }
        try:
            if is_streamed:
                await self._stream(body, outcome, first_text)
            else:
                await self._whole(body, outcome)
        except (httpx2.HTTPError, ValueError, LookupError) as error:
            outcome.detail = f"{type(error).__name__}: {error}"
        outcome.ended_s = time.time()
        if first_text is not None:
            first_text.set()
        return outcome

    async def _whole(self, body: dict[str, Any], outcome: Outcome) -> None:
        response = await self._http.post("/v1/chat/completions", json=body)
        outcome.status = response.status_code
        document = response.json()
        if response.status_code >= FIRST_ERROR_STATUS:
            _note_error(document, outcome)
        elif document["choices"][0]["finish_reason"] in {"stop", "length"}:
            outcome.ending = "completed"

    async def _stream(
        self, body: dict[str, Any], outcome: Outcome, first_text: trio.Event | None
    ) -> None:
        request = self._http.stream("POST", "/v1/chat/completions", json=body)
        async with request as response:
            outcome.status = response.status_code
            if response.status_code >= FIRST_ERROR_STATUS:
                _note_error(json.loads(await response.aread()), outcome)
                return
            is_done, finishes = False, 0
            async for data in _sse_data(response):
                if data == "[DONE]":
                    is_done = True
                    continue
                finishes += _read_frame(json.loads(data), outcome)
                if outcome.first_s and first_text is not None:
                    first_text.set()
        _close_stream(outcome, is_done=is_done, finishes=finishes)


async def _sse_data(response: httpx2.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _read_frame(frame: Any, outcome: Outcome) -> bool:
    """Note what a frame says; returns whether it ends the answer."""
    if "error" in frame:
        _note_error(frame, outcome)
        return True
    for choice in frame["choices"]:
        if not outcome.first_s and choice["delta"].get("content"):
            outcome.first_s = time.time()
        if choice["finish_reason"] is not None:
            return True
    return False


def _note_error(document: Any, outcome: Outcome) -> None:
    outcome.code = str(document["error"]["code"])
    outcome.detail = str(document["error"]["message"])
    outcome.ending = "failed"


def _close_stream(outcome: Outcome, *, is_done: bool, finishes: int) -> None:
    """A stream ends with one reason and ``[DONE]``, or with one error and nothing behind it."""
    if finishes != 1 or is_done == bool(outcome.code):
        outcome.ending = "broken"
        outcome.detail += f" (finishes or errors: {finishes}, [DONE]: {is_done})"
    elif not outcome.code:
        outcome.ending = "completed"


def open_http(url: str) -> httpx2.AsyncClient:
    """Connections to a daemon, as many as needed."""
    return httpx2.AsyncClient(base_url=url, timeout=REQUEST_LIMIT_S)


async def post(http: httpx2.AsyncClient, verb: str, model: str, *, expected: int) -> str:
    """Load or unload a model; returns the error's code, empty for none.

    Raises:
        StormFailed: The status is another than expected.
    """
    response = await http.post(f"/admin/models/{verb}", json={"model_id": model})
    if response.status_code != expected:
        raise StormFailed(f"{verb} of {model}: {response.status_code} {response.text[:300]}")
    document = response.json()
    return str(document["error"]["code"]) if "error" in document else ""
