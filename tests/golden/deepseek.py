"""DeepSeek V3, R1 and V3.1."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


def call(name: str, arguments: str) -> str:
    """A call as V3.1's template renders it, without the section."""
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def fenced(name: str, arguments: str) -> str:
    """A call as R1's template renders it, without the section."""
    return call("function", f"{name}\n```json\n{arguments}\n```")


CALL = BEGIN + call("get_weather", '{"city": "Paris"}') + END
FENCED = BEGIN + fenced("get_weather", '{"city": "Paris"}') + END
THINK = f"<think>\n{THOUGHT}\n</think>\n\n"

CORPUS = Corpus(
    dialect=Dialect("deepseek", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": BEGIN + call("ping", "{}") + END,
        "two calls": BEGIN
        + fenced("get_weather", '{"city": "Paris"}')
        + "\n"
        + fenced("get_time", '{"zone": "Europe/Paris"}')
        + END,
        "strings": BEGIN + call("save_note", r'{"text": "Zoë said \"hi\" \\o/\n\t東京 🙂"}') + END,
        "nested": BEGIN
        + fenced(
            "plan_trip",
            '{"trip": {"stops": ["Rome", "Oslo"], "days": {"min": 2}}, "tags": []}',
        )
        + END,
        "scalars": BEGIN
        + call("set_values", '{"count": 3, "ratio": -0.5, "on": true, "off": false, "none": null}')
        + END,
        "text, call": f"Let me look.\n\n{CALL}",
        "call, text": f"{CALL}\nThat was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{FENCED}",
        "reasoning, text, call": f"{THINK}Let me look.{CALL}",
    },
    own={
        "fenced": Case(FENCED, [ToolCallPart(0, "get_weather", PARIS)]),
        "a tool named function": Case(
            call("function", "function\n```json\n{}\n```"), [ToolCallPart(0, "function", "{}")]
        ),
        "cut off before the fence": Case(
            FENCED[: FENCED.index("\n```<")], [ToolCallPart(0, "get_weather", PARIS)], "length"
        ),
    },
    malformed={
        "not JSON": call("get_weather", "Paris"),
        "no separator": "<｜tool▁call▁begin｜>get_weather<｜tool▁call▁end｜>",
    },
    truncated={
        "inside the arguments": (cut_after(CALL, "Par"), 'get_weather {"city": "Par'),
        "before the arguments": (cut_after(CALL, "<｜tool▁sep｜>"), "get_weather"),
    },
)
