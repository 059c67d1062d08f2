"""Which dialect a model speaks: how it spells tool calls and how it marks its reasoning.

Decided once per model from its chat template's text and its vocabulary, before any answer; the
template decides first, because fine-tunes keep tokens they were never taught to use.
"""

# ruff: noqa: RUF001 - DeepSeek's markers are written with full-width bars

from collections.abc import Callable, Collection

import msgspec

from lmx.errors import ConfigError
from lmx.text.reasoning import REASONING, ReasoningMarkers, ends_in_opening, find_reasoning
from lmx.text.tools.families import FAMILIES


class Dialect(msgspec.Struct, frozen=True):
    """How a model's answers are read.

    Attributes:
        tools: Name of the tool family; "none" for a model without tools.
        reasoning: What encloses reasoning, if anything does.
    """

    tools: str = "none"
    reasoning: ReasoningMarkers | None = None


PLAIN = Dialect()

# What a template that teaches a family says; the first row that matches decides. A family whose
# markers are part of another's stands after it.
_TEMPLATES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("harmony", lambda text: "<|channel|>" in text and "<|message|>" in text),
    ("deepseek_v32", lambda text: "｜DSML｜" in text),
    ("deepseek", lambda text: "<｜tool▁calls▁begin｜>" in text),
    ("kimi", lambda text: "<|tool_calls_section_begin|>" in text),
    ("minimax", lambda text: "<minimax:tool_call>" in text),
    ("longcat", lambda text: "<longcat_tool_call>" in text),
    ("seed", lambda text: "<seed:tool_call>" in text),
    ("command_r", lambda text: "<|START_ACTION|>" in text),
    ("gemma4", lambda text: "<|tool_call>" in text and "<tool_call|>" in text),
    ("gemma", lambda text: "<start_function_call>" in text),
    ("glm", lambda text: "<arg_key>" in text),
    ("qwen3_coder", lambda text: "<tool_call>" in text and "<function=" in text),
    ("mistral", lambda text: "[TOOL_CALLS]" in text),
    ("pythonic", lambda text: "<|tool_call_start|>" in text or "<|tool_list_start|>" in text),
    ("hermes", lambda text: "<tool_call>" in text),
    # Llama 3.2 and 4: the same headers as their elder, another syntax spelt out in the prompt.
    ("pythonic", lambda text: "[func_name1(" in text),
    ("llama3", lambda text: "<|python_tag|>" in text),
    ("llama3", lambda text: '"parameters"' in text and _has_llama_headers(text)),
    ("gemma", lambda text: "<start_of_turn>" in text),
)

# Tokens that stand for a family when the template says nothing of tools.
_TOKENS: tuple[tuple[str, str], ...] = (
    ("<|tool_calls_section_begin|>", "kimi"),
    ("｜DSML｜", "deepseek_v32"),  # its template is a program, not Jinja
    ("<｜tool▁calls▁begin｜>", "deepseek"),
    ("<minimax:tool_call>", "minimax"),
    ("<arg_key>", "glm"),
    ("<|START_ACTION|>", "command_r"),
    ("<start_function_call>", "gemma"),
    ("<|tool_call>", "gemma4"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|tool_call_start|>", "pythonic"),
    ("<|python_tag|>", "llama3"),
)

# How the models of a family usually reason, for those who name a family instead of a template.
_USUAL_REASONING: dict[str, str] = {
    "command_r": "command_r",
    "deepseek": "think",
    "deepseek_v32": "think",
    "gemma4": "gemma4",
    "glm": "think",
    "harmony": "harmony",
    "hermes": "think",
    "kimi": "think",
    "longcat": "longcat",
    "minimax": "think",
    "mistral": "mistral",
    "seed": "seed",
}


def _has_llama_headers(text: str) -> bool:
    return "<|start_header_id|>" in text or "<|header_start|>" in text


def choose_dialect(template: str, special_tokens: Collection[str]) -> Dialect:
    """What a model speaks.

    Args:
        template: Source of its chat template; empty if it has none.
        special_tokens: The tokens its vocabulary adds to plain text, as text.
    """
    tools = next((name for name, is_taught in _TEMPLATES if is_taught(template)), None)
    if tools is None:
        tools = next((name for token, name in _TOKENS if token in special_tokens), "none")
    if tools == "harmony":
        return Dialect(tools, REASONING["harmony"])
    return Dialect(tools, find_reasoning(template, special_tokens))


def dialect_named(name: str, reasoning: str | None = None) -> Dialect:
    """A dialect that settings name, for a model whose template misleads.

    Args:
        name: A tool family, or "none".
        reasoning: A row of the table of reasoning markers, or "none"; None for what is usual in
            the family.

    Raises:
        ConfigError: There is no such name.
    """
    if reasoning is None:
        reasoning = _USUAL_REASONING.get(name, "none")
    if name not in FAMILIES:
        raise ConfigError(f"no tool dialect {name!r}; there are: {', '.join(sorted(FAMILIES))}")
    if reasoning == "none":
        return Dialect(name)
    if reasoning not in REASONING:
        names = ", ".join(sorted(REASONING))
        raise ConfigError(f"no reasoning markers {reasoning!r}; there are: none, {names}")
    return Dialect(name, REASONING[reasoning])


def dialect_setting(setting: str) -> Dialect:
    """A dialect as settings spell it: ``hermes``, or ``hermes/think`` with its reasoning markers.

    Raises:
        ConfigError: There is no such name.
    """
    name, _, reasoning = setting.partition("/")
    return dialect_named(name, reasoning or None)


def ends_inside_reasoning(prompt_text: str, dialect: Dialect) -> bool:
    """Whether the rendered prompt leaves the model inside its reasoning."""
    return dialect.reasoning is not None and ends_in_opening(prompt_text, dialect.reasoning)
