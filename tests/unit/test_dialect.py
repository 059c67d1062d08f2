"""A model's dialect: names for the daemon, and the special tokens that must stay visible."""

import pytest

from lmx.engines.fake_tokens import FakeTokenizer
from lmx.text.dialects import dialect_named
from lmx.worker.dialect import ModelDialect

CHATML = "<|im_start|> <|im_end|> <|endoftext|>"
KIMI = (
    "<|tool_calls_section_begin|> <|tool_call_begin|> <|tool_call_argument_begin|>"
    " <|tool_call_end|> <|tool_calls_section_end|>"
)


class TokenizerOf(FakeTokenizer):
    """A fake tokenizer with a template and special tokens."""

    def __init__(self, template: str, tokens: str) -> None:
        self.template_source = template
        self.special_tokens = frozenset(tokens.split())


@pytest.mark.parametrize(
    ("template", "tokens", "visible"),
    [
        ("", CHATML, ""),
        ("<tool_call>", f"{CHATML} <tool_call> </tool_call>", "<tool_call> </tool_call>"),
        ("", f"{CHATML} <tool_call> </tool_call>", "<tool_call> </tool_call>"),
        ("<think></think>", f"{CHATML} <think> </think>", "<think> </think>"),
        ("<tool_call>", f"{CHATML} <think> </think>", "<think> </think>"),
        ("[TOOL_CALLS]", "<s> </s> [INST] [TOOL_CALLS] [ARGS]", "[TOOL_CALLS] [ARGS]"),
        ("[TOOL_CALLS][THINK][/THINK]", "</s> [THINK] [/THINK]", "[THINK] [/THINK]"),
        ("<|tool_calls_section_begin|>", f"<|im_end|> {KIMI}", KIMI),
        (
            "<｜tool▁calls▁begin｜>",
            "<｜end▁of▁sentence｜> <｜tool▁call▁begin｜> <｜tool▁sep｜>",
            "<｜tool▁call▁begin｜> <｜tool▁sep｜>",
        ),
        ("<arg_key>", "<|user|> <arg_key> </arg_value>", "<arg_key> </arg_value>"),
        ("<|tool_call><tool_call|>", '<turn|> <|tool_call> <|"|>', '<|tool_call> <|"|>'),
        ("<｜DSML｜", "<｜User｜> ｜DSML｜", "｜DSML｜"),
        ("<|START_ACTION|>", "<|START_ACTION|> <|END_ACTION|>", "<|START_ACTION|> <|END_ACTION|>"),
        (
            "<|channel|><|message|>",
            "<|start|> <|channel|> <|message|> <|constrain|> <|end|> <|call|> <|return|>",
            "<|start|> <|channel|> <|message|> <|constrain|> <|end|> <|call|>",
        ),
        ("<|channel|><|message|>", "<|channel|> <|return|>", "<|channel|>"),
        ("<|python_tag|>", "<|eot_id|> <|python_tag|>", "<|python_tag|>"),
    ],
)
def test_markup_stays_visible(template: str, tokens: str, visible: str) -> None:
    """Special tokens of its own syntax and of the common one are kept, and none beside them."""
    assert set(visible.split()) == ModelDialect(TokenizerOf(template, tokens)).visible


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("", "none"),
        ("</think>", "think"),
        ("<seed:think></seed:think>", "seed"),
        ("<|channel|><|message|>", "harmony"),
        ("◁think▷◁/think▷", "kimi"),
    ],
)
def test_reasoning_travels_by_name(template: str, name: str) -> None:
    """The daemon finds the same dialect under the names that the worker sends."""
    own = ModelDialect(TokenizerOf(template, ""))
    assert name == own.reasoning_name
    assert own.dialect == dialect_named(own.dialect.tools, own.reasoning_name)


@pytest.mark.parametrize(
    ("template", "has_tools"), [("", False), ("{{ tools }}", True), ("[TOOL_CALLS]", False)]
)
def test_a_template_has_tools_if_it_speaks_of_them(template: str, has_tools: bool) -> None:  # noqa: FBT001
    """Knowing a syntax is not enough: the template must take the tools."""
    assert has_tools == ModelDialect(TokenizerOf(template, "")).has_tools


def test_a_setting_decides_before_the_template() -> None:
    """What settings name is spoken, with the family's usual reasoning or the one named."""
    tokenizer = TokenizerOf("<tool_call>", "")
    usual = ModelDialect(tokenizer, "glm")
    assert ("glm", "think") == (usual.dialect.tools, usual.reasoning_name)
    named = ModelDialect(tokenizer, "glm/none")
    assert ("glm", "none") == (named.dialect.tools, named.reasoning_name)
