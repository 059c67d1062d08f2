"""A model's dialect is found from its template and vocabulary, or named by settings."""

import pytest

from lmx.errors import ConfigError
from lmx.text.dialects import (
    PLAIN,
    Dialect,
    choose_dialect,
    dialect_named,
    ends_inside_reasoning,
)
from lmx.text.reasoning import REASONING
from lmx.text.tools.families import FAMILIES

THINK = REASONING["think"]

# The least of a template that tells a family: our words, the family's markup.
TEMPLATES = [
    ("", PLAIN),
    (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
        PLAIN,
    ),
    (
        'Answer with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>',
        Dialect("hermes"),
    ),
    (
        "{{ content.split('</think>')[-1] }} <tool_call>\\n{{ tool_call.name }}",
        Dialect("hermes", THINK),
    ),
    ("Write <tool_call>\\n<function=NAME>\\n<parameter=KEY>", Dialect("qwen3_coder")),
    (
        "<seed:think> and <seed:tool_call>\n<function=NAME> </seed:think>",
        Dialect("seed", REASONING["seed"]),
    ),
    ('{{ \'<|start_header_id|>\' }} Reply with {"name": f, "parameters": {}}', Dialect("llama3")),
    ("{{ '<|python_tag|>' + tool_call.name }}", Dialect("llama3")),
    ("<|header_start|> Put calls in [func_name1(params_name1=value1)]", Dialect("pythonic")),
    ("<|tool_list_start|>{{ tools | tojson }}<|tool_list_end|>", Dialect("pythonic")),
    ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS]", Dialect("mistral")),
    ("[THINK]{{ thoughts }}[/THINK][TOOL_CALLS]", Dialect("mistral", REASONING["mistral"])),
    ("<tool_call>{name}\\n<arg_key>{k}</arg_key> </think>", Dialect("glm", THINK)),
    ("<longcat_tool_call>{name}\\n<longcat_arg_key>", Dialect("longcat")),
    (
        "{% set begin = '<minimax:tool_call>' %}<think>{{ m.reasoning }}</think>",
        Dialect("minimax", THINK),
    ),
    ("<|tool_calls_section_begin|>{% for c in calls %}", Dialect("kimi")),
    (
        "'<｜Assistant｜><｜tool▁calls▁begin｜>' {% if '</think>' in content %}",
        Dialect("deepseek", THINK),
    ),
    ("<｜DSML｜function_calls>", Dialect("deepseek_v32")),
    ("<start_function_call>call:{{ name }}", Dialect("gemma")),
    ("<start_of_turn>{{ role }}\\n", Dialect("gemma")),
    ("<|tool_call>call:{{ name }}<tool_call|>", Dialect("gemma4")),
    (
        "<|START_THINKING|>{{ plan }}<|END_THINKING|><|START_ACTION|>[",
        Dialect("command_r", REASONING["command_r"]),
    ),
    (
        "<|start|>assistant<|channel|>final<|message|> <think></think>",
        Dialect("harmony", REASONING["harmony"]),
    ),
]


@pytest.mark.parametrize(("template", "expected"), TEMPLATES)
def test_a_template_tells_its_dialect(template: str, expected: Dialect) -> None:
    """The markup that a template writes or cuts out names the family and the reasoning."""
    assert expected == choose_dialect(template, ())


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"<|tool_call_start|>", "<|tool_call_end|>"}, Dialect("pythonic")),
        ({"[TOOL_CALLS]", "[THINK]", "[/THINK]"}, Dialect("mistral", REASONING["mistral"])),
        ({"｜DSML｜", "<think>", "</think>"}, Dialect("deepseek_v32", THINK)),
        ({"<|channel>", "<channel|>"}, Dialect("none", REASONING["gemma4"])),
        ({"<think>"}, PLAIN),
        ({"<|im_start|>"}, PLAIN),
    ],
)
def test_a_vocabulary_tells_what_a_template_does_not(tokens: set[str], expected: Dialect) -> None:
    """Without a word in the template, special tokens decide."""
    assert expected == choose_dialect("{{ messages }}", tokens)


def test_the_template_decides_before_the_vocabulary() -> None:
    """A fine-tune that teaches another syntax keeps its base's tokens."""
    chosen = choose_dialect("<tool_call>", {"<|python_tag|>", "<think>", "</think>"})
    assert Dialect("hermes", THINK) == chosen


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_can_be_named(name: str) -> None:
    """A name gives its family, with the usual reasoning or with the one that is named."""
    assert name == dialect_named(name).tools
    assert Dialect(name) == dialect_named(name, "none")
    assert Dialect(name, REASONING["kimi"]) == dialect_named(name, "kimi")


@pytest.mark.parametrize(("name", "reasoning"), [("hermess", None), ("hermes", "thinks")])
def test_an_unknown_name_is_refused(name: str, reasoning: str | None) -> None:
    """A name nobody has is an error that lists those there are."""
    with pytest.raises(ConfigError, match=r"there are: .*none"):
        dialect_named(name, reasoning)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|Assistant|><think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nWhat does <think> mean?<|im_end|>\n<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_a_prompt_that_opens_reasoning(prompt: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """Only an opening marker at the very end of the prompt counts."""
    assert expected is ends_inside_reasoning(prompt, Dialect("hermes", THINK))
    assert ends_inside_reasoning(prompt, PLAIN) is False
