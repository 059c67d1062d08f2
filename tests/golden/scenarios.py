"""What the golden corpus says in every dialect: the same answers, spelt differently by each family.

A family's file holds raw outputs by scenario; the parts that must come out stand here, once. What
only one family can say stands in its own file as `Case`s.
"""

from typing import Any, NamedTuple

from lmx.protocol.values import FinishReason
from lmx.text.dialects import Dialect
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart


def schema(**types: str) -> dict[str, Any]:
    """A JSON schema of parameters, by name and type."""
    return {"type": "object", "properties": {name: {"type": t} for name, t in types.items()}}


TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": schema(city="string"),
    "get_time": schema(zone="string"),
    "save_note": schema(text="string"),
    "plan_trip": schema(trip="object", tags="array"),
    "set_values": schema(count="integer", ratio="number", on="boolean", off="boolean", none="null"),
    "ping": schema(),
}


def cut_after(raw: str, text: str) -> str:
    """An answer cut off after the first occurrence of a text."""
    return raw[: raw.index(text) + len(text)]


class Case(NamedTuple):
    """One answer as a model writes it, and the parts it must become."""

    raw: str
    parts: list[AnswerPart]
    reason: FinishReason = "stop"
    starts_in_reasoning: bool = False


class Corpus(NamedTuple):
    """One family's answers.

    Attributes:
        dialect: What the model speaks.
        answers: Raw output by scenario; the parts are `SCENARIOS[name]`.
        own: Cases of this family alone, by name.
        malformed: Raw outputs that are no call and must come out as text, unchanged.
        truncated: Outputs cut off at the limit inside a call, and the text that remains of them.
    """

    dialect: Dialect
    answers: dict[str, str]
    own: dict[str, Case]
    malformed: dict[str, str]
    truncated: dict[str, tuple[str, str]]

    def cases(self) -> dict[str, Case]:
        """All answers of the family."""
        return {
            **{name: Case(raw, SCENARIOS[name]) for name, raw in self.answers.items()},
            **self.own,
            **{name: Case(raw, [TextPart(raw)]) for name, raw in self.malformed.items()},
            **{
                name: Case(raw, [TextPart(text)] if text else [], "length")
                for name, (raw, text) in self.truncated.items()
            },
        }


PARIS = '{"city":"Paris"}'
# A quote, a backslash, a line break, a tab, accents and characters outside the first plane.
NOTE = 'Zoë said "hi" \\o/\n\t東京 🙂'
NOTE_JSON = r'{"text":"Zoë said \"hi\" \\o/\n\t東京 🙂"}'
THOUGHT = "The user wants\n\nthe weather."

SCENARIOS: dict[str, list[AnswerPart]] = {
    "no call": [TextPart("It is 3 < 4, [so] {they} say.\n\n- `f(x)` & </b>\n")],
    "one call": [ToolCallPart(0, "get_weather", PARIS)],
    "no arguments": [ToolCallPart(0, "ping", "{}")],
    "two calls": [
        ToolCallPart(0, "get_weather", PARIS),
        ToolCallPart(1, "get_time", '{"zone":"Europe/Paris"}'),
    ],
    "strings": [ToolCallPart(0, "save_note", NOTE_JSON)],
    "nested": [
        ToolCallPart(
            0, "plan_trip", '{"trip":{"stops":["Rome","Oslo"],"days":{"min":2}},"tags":[]}'
        )
    ],
    "scalars": [
        ToolCallPart(0, "set_values", '{"count":3,"ratio":-0.5,"on":true,"off":false,"none":null}')
    ],
    "text, call": [TextPart("Let me look."), ToolCallPart(0, "get_weather", PARIS)],
    "call, text": [ToolCallPart(0, "get_weather", PARIS), TextPart("That was it.")],
    "reasoning, text": [ReasoningPart(THOUGHT), TextPart("It rains.")],
    "reasoning, call": [ReasoningPart(THOUGHT), ToolCallPart(0, "get_weather", PARIS)],
    "reasoning, text, call": [
        ReasoningPart(THOUGHT),
        TextPart("Let me look."),
        ToolCallPart(0, "get_weather", PARIS),
    ],
}

PLAIN_TEXT = "It is 3 < 4, [so] {they} say.\n\n- `f(x)` & </b>\n"
