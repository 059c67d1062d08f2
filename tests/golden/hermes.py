"""Hermes, Qwen2.5 and Qwen3."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ReasoningPart, TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THINK = f"<think>\n{THOUGHT}\n</think>\n\n"

CORPUS = Corpus(
    dialect=Dialect("hermes", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>',
        "two calls": CALL + '\n<tool_call>\n{"name": "get_time", "arguments": '
        '{"zone": "Europe/Paris"}}\n</tool_call>',
        "strings": '<tool_call>\n{"name": "save_note", "arguments": {"text": '
        r'"Zoë said \"hi\" \\o/\n\t東京 \ud83d\ude42"}}' + "\n</tool_call>",
        "nested": '<tool_call>{"name": "plan_trip", "arguments": {"trip": {"stops": '
        '["Rome", "Oslo"], "days": {"min": 2}}, "tags": []}}</tool_call>',
        "scalars": '<tool_call>\n{"name": "set_values", "arguments": {"count": 3, "ratio": -0.5, '
        '"on": true, "off": false, "none": null}}\n</tool_call>\n',
        "text, call": f"Let me look.\n\n{CALL}",
        "call, text": f"{CALL}\n\nThat was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}Let me look.\n{CALL}",
    },
    own={
        "python's quotes": Case(
            "<tool_call>\n{'arguments': {'city': 'Paris'}, 'name': 'get_weather'}\n</tool_call>",
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "arguments as a string": Case(
            r'<tool_call>{"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}</tool_call>',
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "the end tag in a string": Case(
            '<tool_call>{"name": "save_note", "arguments": {"text": '
            r'"\"</tool_call>\""}}</tool_call>',
            [ToolCallPart(0, "save_note", r'{"text":"\"</tool_call>\""}')],
        ),
        "a line break in a string": Case(
            '<tool_call>{"name": "save_note", "arguments": {"text": "a\nb"}}</tool_call>',
            [ToolCallPart(0, "save_note", r'{"text":"a\nb"}')],
        ),
        "the end tag left out between calls": Case(
            CALL.removesuffix("</tool_call>") + CALL,
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "get_weather", PARIS)],
        ),
        "the end tag left out at the end": Case(
            CALL.removesuffix("\n</tool_call>"),
            [ToolCallPart(0, "get_weather", PARIS)],
            "length",
        ),
        "a tool that was not offered": Case(
            '<tool_call>{"name": "mcp.x/y-z", "arguments": {}}</tool_call>',
            [ToolCallPart(0, "mcp.x/y-z", "{}")],
        ),
        "a call inside reasoning": Case(
            f"<think>I could say {CALL} now.</think>No.",
            [ReasoningPart(f"I could say {CALL} now."), TextPart("No.")],
        ),
        "reasoning that the prompt opened": Case(
            f"{THOUGHT}\n</think>\n\n{CALL}",
            [ReasoningPart(THOUGHT), ToolCallPart(0, "get_weather", PARIS)],
            starts_in_reasoning=True,
        ),
        "reasoning opened twice": Case(
            f"<think>\n{THOUGHT} A <think> tag.</think>Done",
            [ReasoningPart(f"{THOUGHT} A <think> tag."), TextPart("Done")],
            starts_in_reasoning=True,
        ),
        "reasoning cut off": Case("<think>\nWell, \n", [ReasoningPart("Well,")], "length"),
        "empty reasoning": Case("<think>\n\n</think>\n\nYes.\n", [TextPart("Yes.\n")]),
        "text around a call": Case(
            f"One.\n\n{CALL}\n{CALL}\nTwo.",
            [
                TextPart("One."),
                ToolCallPart(0, "get_weather", PARIS),
                ToolCallPart(1, "get_weather", PARIS),
                TextPart("\n\nTwo."),
            ],
        ),
        "a call after a string without end": Case(
            f'<tool_call>{{"name": "x}}</tool_call>{CALL}',
            [
                TextPart('<tool_call>{"name": "x}</tool_call>'),
                ToolCallPart(0, "get_weather", PARIS),
            ],
        ),
    },
    malformed={
        "not JSON": "<tool_call>\n{name: get_weather}\n</tool_call>",
        "a trailing bracket": CALL.replace("}}", "}}}"),
        "arguments that are a list": CALL.replace('{"city": "Paris"}', '["Paris"]'),
        "arguments beside the name": '<tool_call>{"name": "f", "city": "Paris"}</tool_call>',
        "no name": '<tool_call>{"arguments": {}}</tool_call>',
        "an infinite number": CALL.replace('"Paris"', "1e999"),
        "brackets without end": "<tool_call>" + "[" * 3000 + "</tool_call>",
        "an empty block, then words": "Say <tool_call></tool_call> to call.",
    },
    truncated={
        "inside a string": (cut_after(CALL, "Par"), cut_after(CALL[12:], "Par")),
        "inside a string that holds the end": (
            '<tool_call>{"name": "f", "arguments": {"t": "x</tool_call>y',
            '<tool_call>{"name": "f", "arguments": {"t": "x</tool_call>y',
        ),
        "after the opening": ("<tool_call>\n", ""),
    },
)
