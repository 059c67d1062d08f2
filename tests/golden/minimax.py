"""MiniMax-M2 and DeepSeek-V3.2."""

from lmx.text.dialects import Dialect
from lmx.text.parts import TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import NOTE, PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

WEATHER = '<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
BEGIN, END = "<minimax:tool_call>\n", "</minimax:tool_call>"
CALL = BEGIN + WEATHER + END
THINK = f"<think>\n{THOUGHT}\n</think>\n\n"


def invoke(name: str, **values: str) -> str:
    """An invocation as the template renders it."""
    parameters = "".join(
        f'<parameter name="{key}">{value}</parameter>\n' for key, value in values.items()
    )
    return f'<invoke name="{name}">\n{parameters}</invoke>\n'


CORPUS = Corpus(
    dialect=Dialect("minimax", REASONING["think"]),
    answers={
        "no call": PLAIN_TEXT,
        "one call": CALL,
        "no arguments": BEGIN + invoke("ping") + END,
        "two calls": BEGIN + WEATHER + invoke("get_time", zone="Europe/Paris") + END,
        "strings": BEGIN + invoke("save_note", text=NOTE) + END,
        "nested": BEGIN
        + invoke("plan_trip", trip='{"stops": ["Rome", "Oslo"], "days": {"min": 2}}', tags="[]")
        + END,
        "scalars": BEGIN
        + invoke("set_values", count="3", ratio="-0.5", on="true", off="false", none="null")
        + END,
        "text, call": f"Let me look.\n\n{CALL}\n",
        "call, text": f"{CALL}\n\nThat was it.",
        "reasoning, text": f"{THINK}It rains.",
        "reasoning, call": f"{THINK}{CALL}",
        "reasoning, text, call": f"{THINK}Let me look.\n{CALL}",
    },
    own={
        "cut off after the first call": Case(
            BEGIN + WEATHER + '<invoke name="get_t',
            [ToolCallPart(0, "get_weather", PARIS), TextPart('"get_t')],
            "length",
        ),
        "tags in a value": Case(
            BEGIN + invoke("save_note", text="</invoke></parameter>.") + END,
            [ToolCallPart(0, "save_note", '{"text":"</invoke></parameter>."}')],
        ),
        "text inside the section": Case(
            f"{BEGIN}First:\n{WEATHER}{END}",
            [TextPart("First:"), ToolCallPart(0, "get_weather", PARIS)],
        ),
        "a malformed call beside a good one": Case(
            f'{BEGIN}<invoke name="x">y</invoke>\n{WEATHER}{END}',
            [TextPart('<invoke name="x">y</invoke>'), ToolCallPart(0, "get_weather", PARIS)],
        ),
    },
    malformed={"no section": f"Say {WEATHER}"},
    truncated={
        "inside a value": (cut_after(CALL, "Par"), "get_weather \ncity Par"),
        "in the section": (BEGIN, ""),
    },
)

DSML_CALL = (
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜function_calls>"
)
DSML = Corpus(
    dialect=Dialect("deepseek_v32", REASONING["think"]),
    answers={
        "one call": DSML_CALL,
        "reasoning, text, call": f"<think>{THOUGHT}</think>Let me look.\n\n{DSML_CALL}",
    },
    own={
        "the call says what is a string": Case(
            DSML_CALL.replace('string="true">Paris', 'string="false">{"a": 1}'),
            [ToolCallPart(0, "get_weather", '{"city":{"a":1}}')],
        ),
    },
    malformed={},
    truncated={"inside a value": (cut_after(DSML_CALL, "Par"), "get_weather \ncity Par")},
)
