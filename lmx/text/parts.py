"""The parsed pieces of an answer: what `lmx.text.output` gives and dialects encode."""

import msgspec


class TextPart(msgspec.Struct, frozen=True):
    """Visible text. Never empty; only an answer's last one ends in white space, in line breaks."""

    text: str


class ReasoningPart(msgspec.Struct, frozen=True):
    """What the model thought before it answered. Never empty, never ends in white space."""

    text: str


class ToolCallPart(msgspec.Struct, frozen=True):
    """One complete call of a tool.

    Attributes:
        index: Its place among the answer's calls, from 0.
        name: The tool, as the model named it; it need not be one that was offered.
        arguments: Compact JSON text of an object, keys in the model's order.
    """

    index: int
    name: str
    arguments: str


AnswerPart = TextPart | ReasoningPart | ToolCallPart
