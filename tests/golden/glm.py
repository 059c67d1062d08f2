"""GLM-4.5 to 4.7, and LongCat."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import NOTE, PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

CALL = """\
<tool_call>get_weather
<arg_key>city</arg_key>
<arg_value>Paris</arg_value>
</tool_call>"""
THINK = f"<think>{THOUGHT}</think>\n"


def call(name: str, **values: str) -> str:
    """A call as GLM-4.7's template renders it."""
    pairs = "".join(
        f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>" for key, value in values.items()
    )
    return f"<tool_call>{name}{pairs}</tool_call>"


CORPUS = Corpus(
    dialect=Dialect("glm", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": "<tool_call>ping\n</tool_call>",
        "two calls": CALL + "\n" + call("get_time", zone="Europe/Paris"),
        "strings": call("save_note", text=NOTE),
        "nested": call(
            "plan_trip", trip='{"stops": ["Rome", "Oslo"], "days": {"min": 2}}', tags="[]"
        ),
        "scalars": call("set_values", count="3", ratio="-0.5", on="true", off="false", none="null"),
        "text, call": f"Let me look.\n{CALL}",
        "call, text": f"{CALL}\nThat was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}Let me look.\n{CALL}",
    },
    own={
        "without line breaks": Case(
            call("get_weather", city="Paris"), [ToolCallPart(0, "get_weather", PARIS)]
        ),
        "tags in a value": Case(
            call("save_note", text="</tool_call><arg_key>"),
            [ToolCallPart(0, "save_note", '{"text":"</tool_call><arg_key>"}')],
        ),
        "the end left out by a model that stopped": Case(
            CALL.removesuffix("</tool_call>"), [ToolCallPart(0, "get_weather", PARIS)]
        ),
    },
    malformed={
        "words": "<tool_call>I would call it.</tool_call>",
        "a key without a value": "<tool_call>ping<arg_key>a</arg_key></tool_call>",
        "words between pairs": CALL.replace("\n<arg_value", " is <arg_value"),
    },
    truncated={
        "inside a value": (cut_after(CALL, "Par"), "get_weather\n city \n Par"),
        "between pairs": (cut_after(CALL, "</arg_value>"), "get_weather\n city \n Paris"),
        "inside the name": (cut_after(CALL, "get_"), "get_"),
    },
)

LONGCAT = Corpus(
    dialect=Dialect("longcat", REASONING["longcat"]),
    answers={
        "one call": CALL.replace("tool_call", "longcat_tool_call").replace("arg_", "longcat_arg_"),
        "reasoning, text": f"<longcat_think>\n{THOUGHT}\n</longcat_think>\nIt rains.",
    },
    own={},
    malformed={},
    truncated={},
)
