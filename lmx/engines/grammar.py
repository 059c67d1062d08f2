"""Grammars to token masks with llguidance. Knows vocabularies, not engines: it imports no MLX.

The intake thread compiles, because that takes milliseconds and may be refused; the engine thread
then asks the constraint for one mask per token. Both directions are bounded: a hostile grammar
hits a limit and is a client's error, and a matcher that gives up while it runs lets the answer end.
"""

import json
import re
import threading
from collections.abc import Callable, Collection

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from lmx.errors import InvalidRequest
from lmx.protocol.values import Grammar

# Real schemas of 200 nested objects have 200,000 characters.
MAX_CHARS = 1 << 19
# Beside the schemas in it. A rule of Lark whose symbols may all be empty costs quadratic time: 10 s
# at 160,000 characters, under a second at this length. Schemas cannot spell such rules.
MAX_RULE_CHARS = 1 << 14
SCHEMA_MARK = re.compile(r"%json\s*")
# Half of llguidance's defaults and less, which such a schema stays far below.
LIMITS = LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=50_000,
    verbose_errors=False,
)
# Enough for a line break and ten levels of indentation, but bounded: models that want to say
# something else than the schema allows otherwise go on with spaces until their token limit.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
SILENT = 0
MAX_REASON_CHARS = 300

VocabularySource = str | TokenizerWrapper | Callable[[], TokenizerWrapper]


class LlgConstraint:
    """One sequence's way through a grammar.

    Args:
        matcher: At the grammar's beginning.
        end_ids: What is allowed once the matcher has failed.
    """

    def __init__(self, matcher: LLMatcher, end_ids: Collection[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids

    def fill_mask(self, mask: NDArray[np.int32]) -> bool:
        """Write the allowed tokens; words beyond the grammar's vocabulary allow nothing."""
        found = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.int32)
        width = min(found.size, mask.size)
        mask[:width] = found[:width]
        mask[width:] = 0
        if self._matcher.is_error():
            self._allow_ends(mask)
        return True

    def consume(self, token_id: int) -> None:
        """Advance; a token the grammar does not allow stops the matcher for good."""
        self._matcher.consume_token(token_id)

    @property
    def is_finished(self) -> bool:
        """The grammar is complete and admits nothing more, or the matcher has failed."""
        return self._matcher.is_stopped() or self._matcher.is_error()

    @property
    def is_binding(self) -> bool:
        """Always: a grammar follows every token."""
        return True

    @property
    def decides_end(self) -> bool:
        """Always: only a complete text may end."""
        return True

    def _allow_ends(self, mask: NDArray[np.int32]) -> None:
        mask[:] = 0
        words = mask.view(np.uint32)
        for token_id in self._end_ids:
            if token_id // 32 < words.size:
                words[token_id // 32] |= np.uint32(1 << token_id % 32)


class LlgGrammarCompiler:
    """Makes constraints for one vocabulary.

    Args:
        vocabulary: The text of ``tokenizer.json``, a table of bytes per token, or what makes one;
            that is called at the first grammar.
        vocabulary_size: Ids the model gives logits for; ids without a token are never allowed.
        end_ids: Ids that end an answer, allowed where the grammar may end.
    """

    def __init__(
        self,
        vocabulary: VocabularySource,
        *,
        vocabulary_size: int,
        end_ids: Collection[int],
    ) -> None:
        self._vocabulary: VocabularySource | None = vocabulary
        self._vocabulary_size = vocabulary_size
        self._end_ids = sorted(end_ids)
        # Made at the first grammar: most models never see one, and it takes 0.7 s.
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> LlgConstraint:
        """A fresh constraint at the grammar's beginning.

        Raises:
            InvalidRequest: The grammar is malformed, unsupported or over the limits.
        """
        _check_length(grammar)
        source = _translate(grammar)
        tokenizer = self._ready_tokenizer(grammar)
        is_error, reasons = LLMatcher.validate_grammar_with_warnings(
            source, tokenizer, limits=LIMITS
        )
        if is_error or reasons:
            raise _refusal(grammar, reasons[0])
        matcher = LLMatcher(tokenizer, source, log_level=SILENT, limits=LIMITS)
        # The first mask is the dearest; here it holds nobody up, and a limit still refuses.
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        return LlgConstraint(matcher, self._end_ids)

    def _ready_tokenizer(self, grammar: Grammar) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None and self._vocabulary is not None:
                self._tokenizer = self._build(self._vocabulary)
                self._vocabulary = None
            if self._tokenizer is None:
                raise _refusal(grammar, "llguidance cannot read this model's vocabulary")
            return self._tokenizer

    def _build(self, source: VocabularySource) -> LLTokenizer | None:
        vocabulary = source if isinstance(source, str | TokenizerWrapper) else source()
        ends = self._end_ids or None
        try:
            return LLTokenizer(vocabulary, n_vocab=self._vocabulary_size, eos_token=ends)
        except ValueError:
            pass
        try:  # A tokenizer with more tokens than the model has logits for.
            return LLTokenizer(vocabulary, eos_token=ends)
        except ValueError:
            return None


def _check_length(grammar: Grammar) -> None:
    if len(grammar.source) > MAX_CHARS:
        raise _refusal(grammar, f"it has more than {MAX_CHARS} characters")
    if grammar.kind != "json_schema" and _count_rule_chars(grammar.source) > MAX_RULE_CHARS:
        raise _refusal(grammar, f"its rules have more than {MAX_RULE_CHARS} characters")


def _count_rule_chars(source: str) -> int:
    """Characters outside embedded schemas; from one that is no JSON on, everything counts."""
    decoder = json.JSONDecoder()
    count = position = 0
    while mark := SCHEMA_MARK.search(source, position):
        count += mark.end() - position
        try:
            _, position = decoder.raw_decode(source, mark.end())
        except (ValueError, RecursionError):
            position = mark.end()
            break
    return count + len(source) - position


def _translate(grammar: Grammar) -> str:
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    try:
        # A schema's own `x-guidance` may not switch the refusal of unknown keywords off.
        return LLMatcher.grammar_from_json_schema(
            "{}" if grammar.source.strip() == "true" else grammar.source,
            defaults={"whitespace_pattern": WHITESPACE},
            overrides={"lenient": False},
        )
    except ValueError as error:
        raise _refusal(grammar, str(error)) from error


def _refusal(grammar: Grammar, reason: str) -> InvalidRequest:
    kind = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}
    said = reason.removeprefix("ERROR: ").strip()[:MAX_REASON_CHARS]
    return InvalidRequest(f"the {kind[grammar.kind]} is refused: {said}", param=grammar.param)
