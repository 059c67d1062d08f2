"""The parsed pieces of an answer, and the machine that makes them from raw text.

`OutputParser` is the one place per request through which every delta passes on its way to a
client, streamed or not. It knows what text means, not how a dialect spells it.
"""

from typing import NamedTuple

import msgspec

from lmx.text.blanks import BlankHolder


class TextPart(NamedTuple):
    """Visible text. Never empty, never ends in a space or tab."""

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


Part = TextPart
AnswerPart = TextPart | ReasoningPart | ToolCallPart


class OutputParser:
    """Raw text of one answer to parts."""

    def __init__(self) -> None:
        self._blanks = BlankHolder()

    def feed(self, text: str) -> list[Part]:
        """Add text; return the parts that are final now."""
        shown = self._blanks.feed(text)
        return [TextPart(shown)] if shown else []
