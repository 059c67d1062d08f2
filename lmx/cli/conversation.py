"""A conversation with a model over HTTP: its messages, and one turn at a time.

Knows no terminal. A turn that is interrupted keeps what was said so far, as the model said it.
"""

import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from lmx.cli.client import Client

Kind = Literal["reasoning", "content"]
OnText = Callable[[Kind, str], None]


class Options(Struct, kw_only=True):
    """How turns are asked for.

    Attributes:
        model: Name of the model.
        temperature: `None` for the daemon's.
        system: What the model is told first; empty for nothing.
    """

    model: str
    temperature: float | None = None
    system: str = ""


class Turn(Struct, kw_only=True):
    """One answer.

    Attributes:
        model: Id of the model that answered, as soon as it is known.
        finish_reason: Why it ended; `None` while it has not, and when it was interrupted.
        prompt_tokens: 0 until the daemon tells.
        completion_tokens: 0 until the daemon tells.
        first_text_s: From the request to the first text; `None` before it.
        duration_s: From the request to the end.
    """

    model: str = ""
    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_text_s: float | None = None
    duration_s: float = 0.0

    def take(self, kind: Kind, text: str) -> None:
        """Add a piece of the answer."""
        if self.first_text_s is None:
            self.first_text_s = self.duration_s
        if kind == "content":
            self.content += text
        else:
            self.reasoning += text

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; `None` if there is too little to measure."""
        if self.first_text_s is None or self.completion_tokens <= 1:
            return None
        decode_s = self.duration_s - self.first_text_s
        return (self.completion_tokens - 1) / decode_s if decode_s > 0 else None


class Conversation:
    """What was said so far.

    Args:
        client: The daemon.
        options: How turns are asked for; may be changed between turns.

    Attributes:
        options: The same.
        messages: Without the system message.
    """

    def __init__(self, client: "Client", options: Options) -> None:
        self._client = client
        self.options = options
        self.messages: list[dict[str, str]] = []

    def ask(self, question: str, on_text: OnText) -> Turn:
        """Put a question and hear the answer.

        Args:
            question: What the user says.
            on_text: Told each piece of the answer as it comes.

        Raises:
            CommandFailed: There is no answer, or it broke off; the question is forgotten.
            KeyboardInterrupt: Somebody has heard enough; what was said is remembered.
        """
        turn = Turn()
        asked = {"role": "user", "content": question}
        try:
            self._hear(self._body(asked), turn, on_text)
        except KeyboardInterrupt:
            self._remember(asked, turn)
            raise
        self._remember(asked, turn)
        return turn

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages = []

    def document(self) -> dict[str, Any]:
        """All of it, as a request would say it."""
        return {"model": self.options.model, "messages": [*self._system(), *self.messages]}

    def _body(self, asked: dict[str, str]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.options.model,
            "messages": [*self._system(), *self.messages, asked],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.options.temperature is not None:
            body["temperature"] = self.options.temperature
        return body

    def _system(self) -> list[dict[str, str]]:
        system = self.options.system
        return [{"role": "system", "content": system}] if system else []

    def _remember(self, asked: dict[str, str], turn: Turn) -> None:
        self.messages += [asked, {"role": "assistant", "content": turn.content}]

    def _hear(self, body: dict[str, Any], turn: Turn, on_text: OnText) -> None:
        began_s = time.perf_counter()
        with closing(self._client.events("/v1/chat/completions", body)) as events:
            for event in events:
                turn.duration_s = time.perf_counter() - began_s
                _note(event, turn)
                for kind, text in _texts(event):
                    turn.take(kind, text)
                    on_text(kind, text)


def turn_document(turn: Turn) -> dict[str, Any]:
    """A turn as one JSON document."""
    document: dict[str, Any] = msgspec.to_builtins(turn)
    return document | {"tokens_per_second": turn.tokens_per_second}


def _note(event: dict[str, Any], turn: Turn) -> None:
    turn.model = event.get("model") or turn.model
    usage = event.get("usage")
    if isinstance(usage, dict):
        turn.prompt_tokens = usage.get("prompt_tokens", 0)
        turn.completion_tokens = usage.get("completion_tokens", 0)
    for choice in event.get("choices") or ():
        turn.finish_reason = choice.get("finish_reason") or turn.finish_reason


def _texts(event: dict[str, Any]) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("reasoning_content"):
            found.append(("reasoning", delta["reasoning_content"]))
        if delta.get("content"):
            found.append(("content", delta["content"]))
    return found
