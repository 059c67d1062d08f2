"""Command R7B and Command A."""

from lmx.text.dialects import Dialect
from lmx.text.parts import TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after


def action(name: str, parameters: str, number: int = 0) -> str:
    """One item of the list of actions."""
    return f'    {{"tool_call_id": "{number}", "tool_name": "{name}", "parameters": {parameters}}}'


def call(*actions: str) -> str:
    """The list of actions as the template renders it."""
    return "<|START_ACTION|>[\n" + ",\n".join(actions) + "\n]<|END_ACTION|>"


WEATHER = action("get_weather", '{"city": "Paris"}')
CALL = call(WEATHER)
THINK = f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>"


def response(text: str) -> str:
    """An answer in words."""
    return f"<|START_RESPONSE|>{text}<|END_RESPONSE|>"


CORPUS = Corpus(
    dialect=Dialect("command_r", REASONING["command_r"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": call(action("ping", "{}")),
        "two calls": call(WEATHER, action("get_time", '{"zone": "Europe/Paris"}', 1)),
        "strings": call(action("save_note", r'{"text": "Zoë said \"hi\" \\o/\n\t東京 🙂"}')),
        "nested": call(
            action(
                "plan_trip",
                '{"trip": {"stops": ["Rome", "Oslo"], "days": {"min": 2}}, "tags": []}',
            )
        ),
        "scalars": call(
            action(
                "set_values",
                '{"count": 3, "ratio": -0.5, "on": true, "off": false, "none": null}',
            )
        ),
        "text, call": response("Let me look.") + CALL,
        "call, text": CALL + response("That was it."),
        "reasoning, text": THINK + response("It rains."),
        "reasoning, call": THINK + CALL,
        "reasoning, text, call": THINK + response("Let me look.") + CALL,
    },
    own={
        "line breaks inside a response": Case(
            response("\nIt\n\nrains.\n"), [TextPart("It\n\nrains.")]
        ),
        "cut off before the end": Case(
            CALL.removesuffix("<|END_ACTION|>"), [ToolCallPart(0, "get_weather", PARIS)], "length"
        ),
    },
    malformed={"an empty list": call(), "not JSON": call("get_weather")},
    truncated={
        "inside the list": (cut_after(CALL, "Par"), cut_after(CALL[16:], "Par")),
    },
)
