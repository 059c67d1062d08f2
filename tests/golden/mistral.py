"""Mistral, Devstral and Magistral."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

LIST = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
CALL = '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
THINK = f"[THINK]{THOUGHT}[/THINK]"

CORPUS = Corpus(
    dialect=Dialect("mistral", REASONING["mistral"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": "[TOOL_CALLS]ping[ARGS]{}",
        "two calls": CALL + '[TOOL_CALLS]get_time[ARGS]{"zone": "Europe/Paris"}',
        "strings": r'[TOOL_CALLS]save_note[ARGS]{"text": "Zoë said \"hi\" \\o/\n\t東京 🙂"}',
        "nested": '[TOOL_CALLS]plan_trip[ARGS]{"trip": {"stops": ["Rome", "Oslo"], '
        '"days": {"min": 2}}, "tags": []}',
        "scalars": '[TOOL_CALLS]set_values[ARGS]{"count": 3, "ratio": -0.5, "on": true, '
        '"off": false, "none": null}',
        "text, call": f"Let me look.{CALL}",
        "call, text": f"{CALL}That was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}\n\nLet me look.{CALL}",
    },
    own={
        "a list": Case(LIST, [ToolCallPart(0, "get_weather", PARIS)]),
        "a list of two": Case(
            '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a"}, '
            '{"name": "ping", "arguments": {}, "id": "b"}]',
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "ping", "{}")],
        ),
        "with an id": Case(
            '[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{"city": "Paris"}',
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "brackets in a string": Case(
            r'[TOOL_CALLS]save_note[ARGS]{"text": "}\"[TOOL_CALLS]"}',
            [ToolCallPart(0, "save_note", r'{"text":"}\"[TOOL_CALLS]"}')],
        ),
    },
    malformed={
        "no arguments at all": "[TOOL_CALLS]get_weather[ARGS]()",
        "a list of something else": "[TOOL_CALLS][1, 2] done",
        "an empty list": "[TOOL_CALLS][]",
    },
    truncated={
        "inside the name": (cut_after(CALL, "get_"), "get_"),
        "inside the arguments": (cut_after(CALL, "Par"), 'get_weather {"city": "Par'),
        "inside a list": (cut_after(LIST, "Par"), cut_after(LIST[13:], "Par")),
    },
)
