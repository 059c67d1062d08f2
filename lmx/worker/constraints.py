"""What a request's answer must obey, as engine constraints: grammar, enforced calls, thinking.

A grammar describes the answer, not the thinking before it, so with a model that reasons it begins
after the closing marker; the same place ends the thinking by force when its budget is spent.
"""

import json
from typing import TYPE_CHECKING, Any, Literal

from lmx.engines.base import Constraint, GrammarCompiler, Tokenizer
from lmx.protocol.messages import ChatPrompt, Generate
from lmx.protocol.values import Grammar
from lmx.text.reasoning import REASONING
from lmx.worker.dialect import NO_REASONING
from lmx.worker.prompt import Rendered

if TYPE_CHECKING:  # the engine's masks are NumPy's, but the worker's own modules load no engine
    import numpy as np
    from numpy.typing import NDArray

_State = Literal["undecided", "thinking", "answering"]

WORD_BITS = 32
# Between the pieces of an enforced call: nothing, a blank, or a line break with its indentation.
# Where JSON's own unbounded white space is allowed, small models write it without end.
CALL_WHITE_SPACE = r"( |\n {0,32})?"


class ReasoningConstraint:
    """Lets a model think freely until its budget or a word ends it; constrains what comes after.

    Args:
        closing_ids: Token ids of the marker that ends the thinking.
        opening_id: The token that begins it, for a model that may open it itself; `None` if the
            prompt has opened it.
        budget: Tokens after which the closing marker is forced; `None` never forces it.
        inner: What holds after the thinking, or `None` for nothing.
    """

    def __init__(
        self,
        closing_ids: list[int],
        *,
        opening_id: int | None,
        budget: int | None,
        inner: Constraint | None,
    ) -> None:
        self._closing_ids = closing_ids
        self._opening_id = opening_id
        self._budget = budget
        self._inner = inner
        self._thought: list[int] = []
        self._forced_count = 0  # closing ids forced so far
        self._state: _State = "thinking" if opening_id is None else "undecided"

    @property
    def is_finished(self) -> bool:
        """Nothing may follow."""
        return self._state == "answering" and self._inner is not None and self._inner.is_finished

    @property
    def is_binding(self) -> bool:
        """Not while it only watches for a word to stop."""
        return self._inner is not None or (self._budget is not None and self._state != "answering")

    @property
    def decides_end(self) -> bool:
        """As what holds after the thinking."""
        return self._inner is not None and self._inner.decides_end

    def stop_thinking(self) -> None:
        """End the thinking with the next token, also one that has not begun."""
        self._budget = len(self._thought)

    def fill_mask(self, mask: "NDArray[np.int32]") -> bool:
        """Allowed tokens of the next position; see `Constraint`."""
        if self._state == "thinking":
            return self._fill_thinking(mask)
        is_masked = self._inner is not None and self._inner.fill_mask(mask)
        if is_masked and self._state == "undecided" and self._opening_id is not None:
            allow(mask, self._opening_id)
        return is_masked

    def consume(self, token_id: int) -> None:
        """The token that was sampled."""
        if self._state == "thinking":
            self._think(token_id)
        elif self._state == "undecided" and token_id == self._opening_id:
            self._state = "thinking"
        else:
            self._state = "answering"
            if self._inner is not None:
                self._inner.consume(token_id)

    def _fill_thinking(self, mask: "NDArray[np.int32]") -> bool:
        if not self._is_spent:
            return False
        mask[:] = 0
        allow(mask, self._closing_ids[self._forced_count])
        return True

    def _think(self, token_id: int) -> None:
        if self._is_spent:
            self._forced_count += 1
            is_over = self._forced_count == len(self._closing_ids)
        else:
            self._thought.append(token_id)
            is_over = self._thought[-len(self._closing_ids) :] == self._closing_ids
        if is_over:
            self._state = "answering"

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
    budget = generate.thinking_budget
    watches = budget is not None or generate.may_stop_thinking
    if rendered.reasoning == NO_REASONING or (inner is None and not watches):
        return inner
    markers = REASONING[rendered.reasoning]
    opening_ids = tokenizer.encode(markers.opening)
    is_closed = rendered.text.rstrip().endswith(markers.closing)
    if not rendered.in_reasoning and (is_closed or len(opening_ids) != 1):
        return inner
    return ReasoningConstraint(
        tokenizer.encode(markers.closing),
        opening_id=None if rendered.in_reasoning else opening_ids[0],
        budget=budget,
        inner=inner,
    )


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
