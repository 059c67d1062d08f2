"""What a request's answer must obey, as engine constraints: grammar, enforced calls, thinking.

A grammar describes the answer, not the thinking before it, so with a model that reasons it begins
after the closing marker; the same place ends the thinking by force when its budget is spent.
"""

import json
from typing import TYPE_CHECKING, Any

from lmx.engines.base import Constraint, GrammarCompiler, Tokenizer
from lmx.protocol.messages import ChatPrompt, Generate
from lmx.protocol.values import Grammar
from lmx.text.reasoning import REASONING
from lmx.worker.prompt import Rendered

if TYPE_CHECKING:  # the engine's masks are NumPy's, but the worker's own modules load no engine
    import numpy as np
    from numpy.typing import NDArray

WORD_BITS = 32
# Between the pieces of an enforced call: nothing, a blank, or a line break with its indentation.
# Where JSON's own unbounded white space is allowed, small models write it without end.
CALL_WHITE_SPACE = r"( |\n {0,32})?"


class ReasoningConstraint:
    """Lets a model think freely, at most so many tokens, and constrains what comes after.

    Args:
        closing_ids: Token ids of the marker that ends the thinking.
        budget: Tokens after which that marker is forced; `None` never forces it.
        inner: What holds after the thinking, or `None` for nothing.
    """

    def __init__(
        self, closing_ids: list[int], *, budget: int | None, inner: Constraint | None
    ) -> None:
        self._closing_ids = closing_ids
        self._budget = budget
        self._inner = inner
        self._thought: list[int] = []
        self._forced_count = 0  # closing ids forced so far
        self._is_thinking = True

    @property
    def is_finished(self) -> bool:
        """Nothing may follow."""
        return not self._is_thinking and self._inner is not None and self._inner.is_finished

    def fill_mask(self, mask: "NDArray[np.int32]") -> bool:
        """Allowed tokens of the next position; see `Constraint`."""
        if not self._is_thinking:
            return self._inner is not None and self._inner.fill_mask(mask)
        if not self._is_spent:
            return False
        mask[:] = 0
        allow(mask, self._closing_ids[self._forced_count])
        return True

    def consume(self, token_id: int) -> None:
        """The token that was sampled."""
        if not self._is_thinking:
            if self._inner is not None:
                self._inner.consume(token_id)
        elif self._is_spent:
            self._forced_count += 1
            self._is_thinking = self._forced_count < len(self._closing_ids)
        else:
            self._thought.append(token_id)
            self._is_thinking = self._thought[-len(self._closing_ids) :] != self._closing_ids

    @property
    def _is_spent(self) -> bool:
        return self._budget is not None and len(self._thought) >= self._budget


def allow(mask: "NDArray[np.int32]", token_id: int) -> None:
    """Set one token's bit."""
    words = mask.view("uint32")
    words[token_id // WORD_BITS] |= 1 << token_id % WORD_BITS


def make_constraint(
    generate: Generate, rendered: Rendered, *, tokenizer: Tokenizer, grammars: GrammarCompiler
) -> Constraint | None:
    """A fresh constraint for one choice of a request, or `None` if anything goes.

    Raises:
        InvalidRequest: The grammar cannot be compiled.
    """
    grammar = generate.grammar
    if isinstance(generate.prompt, ChatPrompt) and generate.prompt.must_call:
        grammar = calls_grammar(generate.prompt)
    inner = None if grammar is None else grammars.compile(grammar)
    is_bounded = generate.thinking_budget is not None
    if not rendered.in_reasoning or (inner is None and not is_bounded):
        return inner
    closing_ids = tokenizer.encode(REASONING[rendered.reasoning].closing)
    return ReasoningConstraint(closing_ids, budget=generate.thinking_budget, inner=inner)


def calls_grammar(prompt: ChatPrompt) -> Grammar:
    """One or more calls of the offered tools, each an object between tags.

    Each tool's object is a schema of its own, so that references in its parameters find their root.
    """
    calls = 'call ("\\n" call)*' if prompt.may_call_many else "call"
    names = [f"tool_{number}" for number in range(len(prompt.tools))]
    lines = [
        f"start: {calls}",
        'call: "<tool_call>\\n" body "\\n</tool_call>"',
        f"body: {' | '.join(names)}",
    ]
    for name, tool in zip(names, prompt.tools, strict=True):
        lines.append(f"{name}: %json {json.dumps(_call_schema(tool['function']))}")
    return Grammar("lark", "\n".join(lines), "tools")


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object"}
    definitions = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        **definitions,
        "x-guidance": {"whitespace_pattern": CALL_WHITE_SPACE},
    }
