"""What an answer of several turns adds to its conversation, for templates and for clients alike."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from lmx.schema.chat_documents import FunctionCall, HistoryMessage, ToolCallDocument
from lmx.schema.messages import Message, to_turn
from lmx.schema.skill_documents import SkillCall, output_text
from lmx.skills.outcome import Outcome


class Transcript:
    """The messages of one answer, in order."""

    def __init__(self) -> None:
        self._messages: list[HistoryMessage] = []

    @property
    def messages(self) -> list[HistoryMessage]:
        """As a client sends them with its next request."""
        return list(self._messages)

    @property
    def turns(self) -> list[dict[str, Any]]:
        """As chat templates take them."""
        documents = [msgspec.to_builtins(message) for message in self._messages]
        messages = [msgspec.convert(document, Message) for document in documents]
        return [to_turn(message, at=index) for index, message in enumerate(messages)]

    def say(self, text: str, reasoning: str, calls: Sequence[ToolCallDocument] = ()) -> None:
        """A turn of the model, or the part of it that makes these calls; none if it is empty."""
        if text or calls:
            message = HistoryMessage(
                role="assistant",
                content=text or None,
                reasoning_content=reasoning or UNSET,
                tool_calls=list(calls) or UNSET,
            )
            self._messages.append(message)

    def answer_all(self, ended: Sequence[tuple[SkillCall, Outcome]]) -> None:
        """What skills have answered; of an error the model is told, so that it can react."""
        for call, outcome in ended:
            text = outcome.error or "the skill has failed"
            content = output_text(outcome.output) if outcome.ok else f"error: {text}"
            message = HistoryMessage(
                role="tool", content=content, tool_call_id=call.call_id, name=call.name
            )
            self._messages.append(message)


def to_document(call: SkillCall) -> ToolCallDocument:
    """A call as a message holds it."""
    return ToolCallDocument(id=call.call_id, function=FunctionCall(call.name, call.arguments))
