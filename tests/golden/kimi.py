"""Kimi K2."""

from lmx.text.dialects import Dialect
from lmx.text.parts import TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def call(number: int, name: str, arguments: str) -> str:
    """A call as the template renders it, without the section."""
    return (
        f"<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|>"
    )


WEATHER = call(0, "get_weather", '{"city": "Paris"}')
CALL = BEGIN + WEATHER + END
THINK = f"<think>{THOUGHT}</think>"

CORPUS = Corpus(
    dialect=Dialect("kimi", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": BEGIN + call(0, "ping", "{}") + END,
        "two calls": BEGIN + WEATHER + call(1, "get_time", '{"zone": "Europe/Paris"}') + END,
        "strings": BEGIN
        + call(0, "save_note", r'{"text": "Zoë said \"hi\" \\o/\n\t東京 🙂"}')
        + END,
        "nested": BEGIN
        + call(
            0,
            "plan_trip",
            '{"trip": {"stops": ["Rome", "Oslo"], "days": {"min": 2}}, "tags": []}',
        )
        + END,
        "scalars": BEGIN
        + call(
            0,
            "set_values",
            '{"count": 3, "ratio": -0.5, "on": true, "off": false, "none": null}',
        )
        + END,
        "text, call": f"Let me look.{CALL}",
        "call, text": f"{CALL}That was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}Let me look.{CALL}",
    },
    own={
        "no section": Case(WEATHER, [ToolCallPart(0, "get_weather", PARIS)]),
        "no prefix and no number": Case(
            WEATHER.replace("functions.", "").replace(":0", ""),
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "white space around tokens": Case(
            f"{BEGIN}\n{WEATHER.replace(':0<', ':0 <')}\n{END}\n",
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "cut off after the first call": Case(
            BEGIN + WEATHER + "<|tool_call_begin|>functions.get_t",
            [ToolCallPart(0, "get_weather", PARIS), TextPart("functions.get_t")],
            "length",
        ),
        "the end token in a string": Case(
            call(0, "save_note", '{"text": "<|tool_call_end|>"}'),
            [ToolCallPart(0, "save_note", '{"text":"<|tool_call_end|>"}')],
        ),
    },
    malformed={
        "not JSON": WEATHER.replace('"Paris"', "Paris"),
        "no arguments": "<|tool_call_begin|>functions.ping:0<|tool_call_end|>",
    },
    truncated={
        "inside the arguments": (cut_after(CALL, "Par"), 'functions.get_weather:0 {"city": "Par'),
        "before the arguments": (
            cut_after(CALL, "<|tool_call_argument_begin|>"),
            "functions.get_weather:0",
        ),
    },
)
