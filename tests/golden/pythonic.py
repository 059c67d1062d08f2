"""LFM2, Llama 4 and Llama 3.2."""

from lmx.text.dialects import Dialect
from lmx.text.parts import TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

BARE = '[get_weather(city="Paris")]'


def call(body: str) -> str:
    """Calls as LFM2's template asks for them."""
    return f"<|tool_call_start|>[{body}]<|tool_call_end|>"


CALL = call('get_weather(city="Paris")')

CORPUS = Corpus(
    dialect=Dialect("pythonic", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": call("ping()"),
        "two calls": call("get_weather(city='Paris'), get_time(zone=\"Europe/Paris\")"),
        "strings": call(r"""save_note(text='Zo\xeb said "hi" \\o/\n\t東\u4eac \U0001f642')"""),
        "nested": call(
            "plan_trip(trip={'stops': ('Rome', \"Oslo\",), 'days': {\"min\": 2}}, tags=[])"
        ),
        "scalars": call("set_values(count=3, ratio=-0.5, on=True, off=false, none=None)"),
        "text, call": f"Let me look.\n{CALL}",
        "call, text": f"{CALL}That was it.",
        "reasoning, text": f"<think>{THOUGHT}</think>It rains.",
        "reasoning, call": f"<think>{THOUGHT}</think>\n{BARE}",
        "reasoning, text, call": f"<think>{THOUGHT}</think>\nLet me look.{CALL}",
    },
    own={
        "bare": Case(BARE, [ToolCallPart(0, "get_weather", PARIS)]),
        "bare, between tokens": Case(
            f"<|python_start|>{BARE}<|python_end|>", [ToolCallPart(0, "get_weather", PARIS)]
        ),
        "bare, then text": Case(
            f"{BARE}\nSo be it.", [ToolCallPart(0, "get_weather", PARIS), TextPart("So be it.")]
        ),
        "brackets and the end token in strings": Case(
            call("save_note(text=')]<|tool_call_end|>\\'')"),
            [ToolCallPart(0, "save_note", '{"text":")]<|tool_call_end|>\'"}')],
        ),
        "no list": Case(
            f"<|tool_call_start|>{BARE[1:-1]}<|tool_call_end|>",
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "an unknown escape": Case(
            call(r"save_note(text='\d')"), [ToolCallPart(0, "save_note", r'{"text":"\\d"}')]
        ),
    },
    malformed={
        "a list that is no call": "[get_weather] and [1, 2]",
        "a call after text": f"I would say {BARE} then.",
        "a tool that was not offered": "[get_cake(kind='plum')]",
        "an argument without a name": BARE.replace("city=", ""),
        "an expression": BARE.replace('"Paris"', "1 + 1"),
        "a call as an argument": call("get_weather(city=ping(a=1))"),
        "brackets that do not match": "<|tool_call_start|>[ping(}]<|tool_call_end|>",
        "brackets without end": "<|tool_call_start|>" + "[" * 3000 + "<|tool_call_end|>",
    },
    truncated={
        "inside a string": (cut_after(CALL, "Par"), '[get_weather(city="Par'),
        "bare": (cut_after(BARE, "Par"), cut_after(BARE, "Par")),
    },
)
