"""Llama 3."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ReasoningPart, TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

CALL = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
TAGGED = f"<|python_tag|>{CALL}"

CORPUS = Corpus(
    dialect=Dialect("llama3", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": '{"name": "ping", "parameters": {}}',
        "two calls": f'{CALL}; {{"name": "get_time", "parameters": {{"zone": "Europe/Paris"}}}}',
        "strings": '{"name": "save_note", "parameters": {"text": '
        r'"Zoë said \"hi\" \\o/\n\t東京 🙂"}}',
        "nested": '{"name": "plan_trip", "parameters": {"trip": {"stops": ["Rome", "Oslo"], '
        '"days": {"min": 2}}, "tags": []}}',
        "scalars": '{"name": "set_values", "parameters": {"count": 3, "ratio": -0.5, "on": true, '
        '"off": false, "none": null}}',
        "text, call": f"Let me look.\n{TAGGED}",
        "call, text": f"{CALL}\n\nThat was it.",
        "reasoning, text": f"<think>{THOUGHT}</think>It rains.",
        "reasoning, call": f"<think>{THOUGHT}</think>\n\n{CALL}",
        "reasoning, text, call": f"<think>{THOUGHT}</think>Let me look. {TAGGED}",
    },
    own={
        "tagged": Case(TAGGED, [ToolCallPart(0, "get_weather", PARIS)]),
        "laid out over lines": Case(
            '\n{\n  "type": "function",\n  "name": "get_weather",\n  "parameters": '
            '{"city": "Paris"}\n}\n',
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "on lines of their own": Case(
            f"{CALL}\n{CALL}",
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "get_weather", PARIS)],
        ),
        "two tagged calls": Case(
            f"{TAGGED}; {CALL}",
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "get_weather", PARIS)],
        ),
        "a built-in tool": Case(
            '<|python_tag|>brave_search.call(query="it\'s (wet)")',
            [ToolCallPart(0, "brave_search", '{"query":"it\'s (wet)"}')],
        ),
        "a bracket in a string": Case(
            '{"name": "save_note", "parameters": {"text": "}} \\"{"}}',
            [ToolCallPart(0, "save_note", r'{"text":"}} \"{"}')],
        ),
        "text after the separator": Case(
            f"{CALL}; and so on", [ToolCallPart(0, "get_weather", PARIS), TextPart("; and so on")]
        ),
        "JSON inside reasoning": Case(
            f"{CALL}</think>", [ReasoningPart(CALL)], starts_in_reasoning=True
        ),
    },
    malformed={
        "JSON that is no call": '{"name": "Ada", "age": 36}',
        "a call after text": f"I would say {CALL} then.",
        "a tool that was not offered": CALL.replace("get_weather", "get_cake"),
        "python": "<|python_tag|>print(1)\nx = 2",
        "a name beside arguments": '{"name": "get_weather", "city": "Paris"} it is',
    },
    truncated={
        "inside a string": (cut_after(CALL, "Par"), cut_after(CALL, "Par")),
        "before the name is whole": (cut_after(CALL, "get_"), cut_after(CALL, "get_")),
        "tagged": (cut_after(TAGGED, "Par"), cut_after(CALL, "Par")),
    },
)
