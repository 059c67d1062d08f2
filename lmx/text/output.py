"""The machine that turns one answer's raw text into parts: reasoning, text and tool calls.

It composes a reader, which knows markup, with channels, which know white space. Every answer goes
through it, streamed or not, so both have the same parts. It knows no tokens: the text it gets
still holds the special tokens that are markup.
"""

from lmx.protocol.values import FinishReason
from lmx.text.channels import Channels
from lmx.text.dialects import Dialect
from lmx.text.parts import AnswerPart, ToolCallPart
from lmx.text.reader import MarkedReader
from lmx.text.tools.families import FAMILIES
from lmx.text.tools.family import Tools
from lmx.text.tools.harmony import HARMONY, HarmonyReader


class AnswerParser:
    """Raw text of one answer to parts.

    The parts do not depend on how the text was split, once adjacent ones of a kind are joined.
    Markup of a call that cannot be understood is shown as it stands. A call that was cut off is
    taken if it is whole but for its end; otherwise its text is shown without the markup.

    Args:
        dialect: How the model spells markup.
        tools: The JSON schema of each offered tool's parameters, by the tool's name. Without any,
            markup of calls is text.
        starts_in_reasoning: The prompt left the model inside its reasoning.
        may_call_many: Several calls are allowed; otherwise nothing after the first one is shown.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        tools: Tools,
        starts_in_reasoning: bool,
        may_call_many: bool = True,
    ) -> None:
        self._channels = Channels()
        self._may_call_many = may_call_many
        self._has_called = False
        family = FAMILIES[dialect.tools]
        self._reader: HarmonyReader | MarkedReader
        if family is HARMONY:
            self._reader = HarmonyReader(
                self._channels, tools, starts_in_reasoning=starts_in_reasoning
            )
        else:
            self._reader = MarkedReader(
                self._channels,
                family,
                dialect.reasoning,
                tools=tools,
                starts_in_reasoning=starts_in_reasoning,
            )

    def feed(self, text: str) -> list[AnswerPart]:
        """Add text; return the parts that are final now."""
        self._reader.feed(text)
        return self._allowed(self._channels.take())

    def finish(self, reason: FinishReason) -> list[AnswerPart]:
        """The answer is over; return what was held. Not to be called twice.

        Args:
            reason: Only on "stop" did the model mean to end where it did.
        """
        self._reader.finish(is_stopped=reason == "stop")
        self._channels.finish()
        return self._allowed(self._channels.take())

    def _allowed(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        if self._may_call_many:
            return parts
        allowed: list[AnswerPart] = []
        for part in parts:
            if not self._has_called:
                allowed.append(part)
                self._has_called = isinstance(part, ToolCallPart)
        return allowed
