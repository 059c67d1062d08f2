"""Speed of a loaded model, measured over HTTP as a client sees it.

Each answer is of exactly the length asked for, and each prompt begins with a word of its own, so
that nothing kept of another prompt makes it look faster than it is.
"""

import itertools
import json
import time
from statistics import median
from typing import Any

import httpx2
import trio
from msgspec import Struct

from lmx.cli.client import refusal
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.target import Target

PATH = "/v1/chat/completions"
CONNECT_S = 5.0
FIRST_REFUSAL = 400
# Plain words, about one token each in most vocabularies.
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night"
)


class Answer(Struct, frozen=True):
    """One answer as it was seen.

    Attributes:
        ttft_s: From the request to the first text.
        total_s: From the request to the end.
    """

    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    total_s: float

    @property
    def decode_tps(self) -> float:
        """Tokens per second after the first."""
        return (self.completion_tokens - 1) / max(1e-9, self.total_s - self.ttft_s)

    @property
    def prompt_tps(self) -> float:
        """Tokens of the prompt per second until the first text."""
        return self.prompt_tokens / max(1e-9, self.ttft_s)


class StreamRow(Struct, frozen=True):
    """So many answers at a time; times in seconds, medians over them."""

    streams: int
    ttft_s: float
    stream_tps: float
    total_tps: float


class PromptRow(Struct, frozen=True):
    """One answer alone after a prompt of so many tokens."""

    prompt_tokens: int
    ttft_s: float
    prompt_tps: float
    decode_tps: float


class Bench:
    """Asks one model.

    Args:
        target: The daemon.
        model: The model's id.
        tokens: Length of each answer.
    """

    def __init__(self, target: Target, model: str, *, tokens: int) -> None:
        self._target = target
        self._model = model
        self._tokens = tokens
        self._numbers = itertools.count(round(time.time()))

    async def prompt_row(self, prompt_tokens: int) -> PromptRow:
        """Measure one answer.

        Raises:
            CommandFailed: It was refused or broke off.
        """
        (answer,), _ = await self._ask_together(1, prompt_tokens)
        return PromptRow(answer.prompt_tokens, answer.ttft_s, answer.prompt_tps, answer.decode_tps)

    async def stream_row(self, streams: int, prompt_tokens: int = 32) -> StreamRow:
        """Measure answers that run together.

        Raises:
            CommandFailed: One was refused or broke off.
        """
        answers, took_s = await self._ask_together(streams, prompt_tokens)
        return StreamRow(
            streams,
            median(answer.ttft_s for answer in answers),
            median(answer.decode_tps for answer in answers),
            sum(answer.completion_tokens for answer in answers) / max(1e-9, took_s),
        )

    async def _ask_together(self, streams: int, prompt_tokens: int) -> tuple[list[Answer], float]:
        answers: list[Answer] = []
        failures: list[CommandFailed] = []
        began_s = time.perf_counter()
        try:
            async with self._open() as http, trio.open_nursery() as nursery:
                for _ in range(streams):
                    nursery.start_soon(self._ask, http, self._prompt(prompt_tokens), answers)
        except* CommandFailed as group:
            failures += (leaf for leaf in group.exceptions if isinstance(leaf, CommandFailed))
        except* httpx2.TransportError:
            message = f"the connection to {self._target.url} broke off"
            failures.append(CommandFailed(message, Exit.UNREACHABLE, "unreachable"))
        if failures:
            raise failures[0]
        return answers, time.perf_counter() - began_s

    async def _ask(self, http: "httpx2.AsyncClient", prompt: str, answers: list[Answer]) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began_s = time.perf_counter()
        first_s, usage = None, {"prompt_tokens": 0, "completion_tokens": 0}
        async with http.stream("POST", PATH, json=body) as response:
            if response.status_code >= FIRST_REFUSAL:
                await response.aread()
                raise refusal(response)
            async for line in response.aiter_lines():
                event = _event(line)
                if first_s is None and _has_text(event):
                    first_s = time.perf_counter() - began_s
                usage = event.get("usage") or usage
        total_s = time.perf_counter() - began_s
        if first_s is None or not usage["completion_tokens"]:
            raise CommandFailed(f"{self._model} said nothing that could be measured")
        answers.append(Answer(usage["prompt_tokens"], usage["completion_tokens"], first_s, total_s))

    def _open(self) -> "httpx2.AsyncClient":
        return httpx2.AsyncClient(
            base_url=self._target.url,
            headers=self._target.headers(),
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        )

    def _prompt(self, tokens: int) -> str:
        words = itertools.islice(itertools.cycle(WORDS.split()), max(1, tokens - 1))
        return " ".join([str(next(self._numbers)), *words])


def _event(line: str) -> dict[str, Any]:
    field, _, data = line.partition(": ")
    if field != "data" or data == "[DONE]":
        return {}
    event = json.loads(data)
    if not isinstance(event, dict):
        return {}
    if isinstance(error := event.get("error"), dict):
        raise CommandFailed(str(error.get("message")), code=str(error.get("code")))
    return event


def _has_text(event: dict[str, Any]) -> bool:
    deltas = [choice.get("delta") or {} for choice in event.get("choices") or ()]
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)
