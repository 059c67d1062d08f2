"""FunctionGemma, Gemma 3 and Gemma 4."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import NOTE, PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after


def call(body: str) -> str:
    """A call as FunctionGemma's template renders it, with ~ for its string marker."""
    return f"<start_function_call>call:{body.replace('~', '<escape>')}<end_function_call>"


def call4(body: str) -> str:
    """A call as Gemma 4 writes it, with ~ for its string marker."""
    quoted = body.replace("~", '<|"|>')
    return f"<|tool_call>call:{quoted}<tool_call|>"


NESTED = "plan_trip{trip:{stops:[~Rome~,~Oslo~],days:{min:2}},tags:[]}"
SCALARS = "set_values{count:3,ratio:-0.5,on:true,off:false,none:null}"
TIME = "get_time{zone:~Europe/Paris~}"
WEATHER = "get_weather{city:~Paris~}"
FENCE = '```tool_code\nget_weather(city="Paris")\n```'

CORPUS = Corpus(
    dialect=Dialect("gemma", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": call(WEATHER),
        "no arguments": call("ping{}"),
        "two calls": call(WEATHER) + call(TIME),
        "strings": call(f"save_note{{text:~{NOTE}~}}"),
        "nested": call(NESTED),
        "scalars": call(SCALARS),
        "text, call": f"Let me look.\n{call(WEATHER)}",
        "call, text": f"{call(WEATHER)}\nThat was it.",
        "reasoning, text": f"<think>{THOUGHT}</think>\nIt rains.",
        "reasoning, call": f"<think>{THOUGHT}</think>\n{call(WEATHER)}",
        "reasoning, text, call": f"<think>{THOUGHT}</think>\nLet me look.\n{FENCE}",
    },
    own={
        "brackets and markers in a string": Case(
            call("save_note{text:~},<end_function_call>{:~}"),
            [ToolCallPart(0, "save_note", '{"text":"},<end_function_call>{:"}')],
        ),
        "a string without its marker": Case(
            call("get_weather{city:Paris}"), [ToolCallPart(0, "get_weather", PARIS)]
        ),
        "two calls in a fence": Case(
            "```tool_code\nget_weather(city='Paris')\nping()\n```\n",
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "ping", "{}")],
        ),
        "a fence in a string": Case(
            '```tool_code\nsave_note(text="```")\n```',
            [ToolCallPart(0, "save_note", '{"text":"```"}')],
        ),
    },
    malformed={
        "no braces": call("get_weather"),
        "no name": call("{city:~Paris~}"),
        "a program": "```tool_code\nfor x in y:\n    pass\n```",
        "another fence": '```python\nget_weather(city="Paris")\n```',
    },
    truncated={
        "inside a string": (cut_after(call(WEATHER), "Par"), "call:get_weather{city: Par"),
        "inside a fence": (cut_after(FENCE, "Par"), 'get_weather(city="Par'),
    },
)

GEMMA4 = Corpus(
    dialect=Dialect("gemma4", REASONING["gemma4"]),
    answers={
        "one call": call4(WEATHER),
        "two calls": call4(WEATHER) + call4(TIME),
        "strings": call4(f"save_note{{text:~{NOTE}~}}"),
        "nested": call4(NESTED),
        "scalars": call4(SCALARS),
        "reasoning, text": f"<|channel>thought\n{THOUGHT}<channel|>It rains.",
        "reasoning, call": f"<|channel>thought\n{THOUGHT}\n<channel|>{call4(WEATHER)}",
    },
    own={},
    malformed={"not a literal": call4("ping{a:f(x)}")},
    truncated={},
)
