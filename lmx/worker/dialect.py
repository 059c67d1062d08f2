"""How the loaded model spells tools and reasoning, decided once from its template and vocabulary.

The daemon reads answers by the names given here; the worker needs to know which special tokens are
markup, because those must stay visible in the text while all others are dropped.
"""

from lmx.engines.base import Tokenizer
from lmx.text.dialects import Dialect, choose_dialect, dialect_setting
from lmx.text.reasoning import REASONING
from lmx.text.tools.families import FAMILIES

NO_REASONING = "none"
# What models without a tool syntax of their own are taught, and what enforced calls are written in.
COMMON_TOOLS = "hermes"
# gpt-oss's channels are read by a reader of their own, not by a table of markers.
HARMONY_TOKENS = frozenset(
    {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>"}
)


class ModelDialect:
    """The model's own dialect under the names that travel to the daemon.

    Args:
        tokenizer: Of the model.
        setting: The dialect that settings name, or nothing.

    Attributes:
        dialect: Tool family and reasoning markers.
        reasoning_name: The markers' row in the table of reasoning markers, or ``none``.
        visible: Special tokens that are markup, in its own syntax or the common one.
        has_tools: The chat template itself has a place for tools.
    """

    def __init__(self, tokenizer: Tokenizer, setting: str = "") -> None:
        self.dialect = (
            dialect_setting(setting)
            if setting
            else choose_dialect(tokenizer.template_source, tokenizer.special_tokens)
        )
        names = (name for name, row in REASONING.items() if row == self.dialect.reasoning)
        self.reasoning_name = next(names, NO_REASONING)
        spoken = (self.dialect, Dialect(COMMON_TOOLS))
        self.visible = frozenset(
            token
            for token in tokenizer.special_tokens
            if any(is_markup(token, dialect) for dialect in spoken)
        )
        if self.dialect.tools == "harmony":
            self.visible |= HARMONY_TOKENS & tokenizer.special_tokens
        self.has_tools = "tools" in tokenizer.template_source


def is_markup(token: str, dialect: Dialect) -> bool:
    """Whether a special token is a marker of a dialect or a part of one."""
    family = FAMILIES[dialect.tools]
    patterns = [rule.markup for rule in family.rules if rule.markup is not None]
    pieces = list(family.silent)
    for rule in family.rules:
        pieces += [rule.opening, *rule.ends]
    if family.section is not None:
        pieces += [family.section.begin, family.section.end]
    if dialect.reasoning is not None:
        pieces += [dialect.reasoning.opening, dialect.reasoning.closing]
    return token in "\n".join(pieces) or any(pattern.fullmatch(token) for pattern in patterns)
