"""gpt-oss."""

from lmx.text.dialects import Dialect
from lmx.text.parts import ReasoningPart, TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from tests.golden.scenarios import PARIS, PLAIN_TEXT, THOUGHT, Case, Corpus, cut_after

START = "<|start|>assistant"
THINK = f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"


def final(text: str) -> str:
    """An answer to the user."""
    return f"<|channel|>final<|message|>{text}"


def call(name: str, arguments: str, end: str = "<|call|>") -> str:
    """A call as the model writes it."""
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}{end}"


CALL = call("get_weather", '{"city": "Paris"}')

CORPUS = Corpus(
    dialect=Dialect("harmony", REASONING["harmony"]),
    answers={
        "no call": final(PLAIN_TEXT),
        "one call": CALL,
        "no arguments": call("ping", "{}", ""),
        "two calls": CALL + START + call("get_time", '{"zone": "Europe/Paris"}', ""),
        "strings": call("save_note", r'{"text": "Zoë said \"hi\" \\o/\n\t東京 🙂"}'),
        "nested": call(
            "plan_trip",
            '{"trip": {"stops": ["Rome", "Oslo"], "days": {"min": 2}}, "tags": []}',
        ),
        "scalars": call(
            "set_values", '{"count": 3, "ratio": -0.5, "on": true, "off": false, "none": null}'
        ),
        "text, call": f"<|channel|>commentary<|message|>Let me look.<|end|>{START}{CALL}",
        "call, text": f"{CALL}{START}{final('That was it.<|return|>')}",
        "reasoning, text": f"{THINK}{START}{final('It rains.')}",
        "reasoning, call": f"{THINK}{START}{CALL}",
        "reasoning, text, call": f"{THINK}{START}<|channel|>commentary<|message|>Let me look."
        f"<|end|>{START}{CALL}",
    },
    own={
        "the recipient before the channel": Case(
            ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}',
            [ToolCallPart(0, "get_weather", PARIS)],
        ),
        "a recipient without its namespace": Case(
            CALL.replace("functions.", ""), [ToolCallPart(0, "get_weather", PARIS)]
        ),
        "another recipient": Case(
            "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
            [ReasoningPart("print(1)")],
        ),
        "reasoning that the prompt opened": Case(
            f"{THOUGHT}<|end|>{START}{final('It rains.')}",
            [ReasoningPart(THOUGHT), TextPart("It rains.")],
            starts_in_reasoning=True,
        ),
        "reasoning in two messages": Case(
            f"{THINK}{START}{THINK}{START}{final('Yes')}",
            [ReasoningPart(THOUGHT + THOUGHT), TextPart("Yes")],
        ),
        "an end too many": Case(
            f"{CALL} <|end|>{START}{final('Yes')}",
            [ToolCallPart(0, "get_weather", PARIS), TextPart("Yes")],
        ),
        "messages without their ends": Case(
            f"{THINK.removesuffix('<|end|>')}{final('Yes')}",
            [ReasoningPart(THOUGHT), TextPart("Yes")],
        ),
        "a call without its end": Case(
            f"{CALL.removesuffix('<|call|>')}{START}{CALL}",
            [ToolCallPart(0, "get_weather", PARIS), ToolCallPart(1, "get_weather", PARIS)],
        ),
        "the end token in a string": Case(
            call("save_note", '{"text": "<|call|>"}'),
            [ToolCallPart(0, "save_note", '{"text":"<|call|>"}')],
        ),
        "text after a string without end": Case(
            call("save_note", '{"text": "}') + START + final("Sorry."),
            [TextPart(call("save_note", '{"text": "}') + "Sorry.")],
        ),
        "a header that is cut off": Case(
            f"{THINK}{START}<|chan", [ReasoningPart(THOUGHT)], "length"
        ),
    },
    malformed={
        "no header": "Just words, <|im_end|> and all.",
        "not JSON": call("get_weather", "Paris"),
        "a header without a message": "<|channel|>final<|end|>",
        "a header too long": "<|channel|>" + "x" * 2000,
    },
    truncated={
        "inside the arguments": (cut_after(CALL, "Par"), '{"city": "Par'),
        "in the header": (cut_after(CALL, "get_"), ""),
    },
)
