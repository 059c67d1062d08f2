"""Qwen3-Coder and Seed-OSS."""

from lmx.text.dialects import Dialect
from lmx.text.parts import TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import NOTE, PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

CALL = """\
<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
</function>
</tool_call>"""
THINK = f"<think>\n{THOUGHT}\n</think>\n\n"


def call(name: str, **values: str) -> str:
    """A call as the template renders it."""
    parameters = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items()
    )
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


CORPUS = Corpus(
    dialect=Dialect("qwen3_coder", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": "<tool_call>\n<function=ping>\n</function>\n</tool_call>",
        "two calls": f"{CALL}\n{call('get_time', zone='Europe/Paris')}",
        "strings": call("save_note", text=NOTE),
        "nested": call(
            "plan_trip", trip='{"stops": ["Rome", "Oslo"], "days": {"min": 2}}', tags="[]"
        ),
        "scalars": call("set_values", count="3", ratio="-0.5", on="true", off="false", none="null"),
        "text, call": f"Let me look.\n\n{CALL}",
        "call, text": f"{CALL}\nThat was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}Let me look.\n\n{CALL}\n",
    },
    own={
        "numbers for a string": Case(
            call("get_weather", city="75001"),
            [ToolCallPart(0, "get_weather", '{"city":"75001"}')],
        ),
        "a null for a string": Case(
            call("get_weather", city="null"), [ToolCallPart(0, "get_weather", '{"city":"null"}')]
        ),
        "words for a number": Case(
            call("set_values", count="three", ratio="2", on="True", none="None"),
            [ToolCallPart(0, "set_values", '{"count":"three","ratio":2,"on":true,"none":null}')],
        ),
        "a whole number with a point": Case(
            call("set_values", count="3.0"), [ToolCallPart(0, "set_values", '{"count":3}')]
        ),
        "python for an object": Case(
            call("plan_trip", trip="{'a': (1, None)}"),
            [ToolCallPart(0, "plan_trip", '{"trip":{"a":[1,null]}}')],
        ),
        "no schema": Case(
            call("unknown", a="1", b="x y", c='{"d": []}'),
            [ToolCallPart(0, "unknown", '{"a":1,"b":"x y","c":{"d":[]}}')],
        ),
        "tags in a value": Case(
            call("save_note", text="\n</function>\n</tool_call>\n<b></parameter></b>  "),
            [
                ToolCallPart(
                    0,
                    "save_note",
                    r'{"text":"\n</function>\n</tool_call>\n<b></parameter></b>  "}',
                )
            ],
        ),
        "cut off after a whole function": Case(
            CALL.removesuffix("</tool_call>"),
            [ToolCallPart(0, "get_weather", PARIS)],
            "length",
        ),
        "a parameter that is not closed": Case(
            CALL.replace("</parameter>\n", "") + " Sorry.",
            [TextPart(CALL.replace("</parameter>\n", "") + " Sorry.")],
        ),
    },
    malformed={
        "no function": "<tool_call>\nget_weather\n</tool_call>",
        "words between parameters": CALL.replace("<parameter", "and <parameter"),
    },
    truncated={
        "inside a value": (cut_after(CALL, "Par"), "get_weather \ncity \nPar"),
        "inside the function tag": (cut_after(CALL, "<function="), "<function="),
    },
)

SEED = Corpus(
    dialect=Dialect("seed", REASONING["seed"]),
    answers={
        "one call": "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
        "</function>\n</seed:tool_call>",
        "reasoning, text": f"<seed:think>{THOUGHT}</seed:think>It rains.",
    },
    own={},
    malformed={"another family's tags": CALL},
    truncated={},
)
