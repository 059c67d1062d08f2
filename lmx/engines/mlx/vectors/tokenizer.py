"""Texts and pairs to token rows through a model's `tokenizer.json`.

Knows nothing of weights. The intake thread is the only user. Truncation is the library's state, so
it is set for one call and taken back in the same call; padding is never the tokenizer's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, normalizers, processors

from lmx.engines.mlx.tokenizer import read_tokenizer, token_text
from lmx.engines.vectors import TokenRow


class RowTokenizer:
    """Rows as the model's own templates of tokens make them.

    Args:
        tokenizer: Used by nobody else.
        max_tokens: The longest row the model takes.
        vocabulary_size: Token ids are below this.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocabulary_size = vocabulary_size

    def encode(self, texts: Sequence[str], *, limit: int | None = None) -> list[TokenRow]:
        """One row per text."""
        with _cut_to(self._tokenizer, limit, is_pair=False):
            return [_row(found) for found in self._tokenizer.encode_batch_fast(list(texts))]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int | None = None
    ) -> list[TokenRow]:
        """One row per pair, in the template of pairs; cut from the longer of the two first."""
        with _cut_to(self._tokenizer, limit, is_pair=True):
            return [_row(found) for found in self._tokenizer.encode_batch_fast(list(pairs))]


def open_tokenizer(
    directory: Path, tokenizer_config: dict[str, Any], *, is_lowered: bool = False
) -> Tokenizer:
    """A model's tokenizer, which neither cuts nor pads.

    Args:
        directory: The model's.
        tokenizer_config: Its `tokenizer_config.json`.
        is_lowered: Texts are lower-cased first.

    Raises:
        CorruptModel: `tokenizer.json` cannot be read.
        UnsupportedModel: There is none.
    """
    tokenizer = Tokenizer.from_str(read_tokenizer(directory))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if is_lowered:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    end = token_text(tokenizer_config.get("eos_token"))
    if end is not None and tokenizer_config.get("add_eos_token") is True:
        _end_rows_with(tokenizer, end)
    return tokenizer


def _end_rows_with(tokenizer: Tokenizer, end: str) -> None:
    """Have the end token after each text, unless the tokenizer's own template has it there."""
    end_id = tokenizer.token_to_id(end)
    if end_id is None or tokenizer.encode("a").ids[-1] == end_id:
        return
    template = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", "$B:1", f"{end}:1"], special_tokens=[(end, end_id)]
    )
    own = [] if tokenizer.post_processor is None else [tokenizer.post_processor]
    tokenizer.post_processor = processors.Sequence([*own, template])


@contextmanager
def _cut_to(tokenizer: Tokenizer, limit: int | None, *, is_pair: bool) -> Iterator[None]:
    if limit is None:
        yield
        return
    # Special tokens cannot be cut.
    least = tokenizer.num_special_tokens_to_add(is_pair)
    tokenizer.enable_truncation(max(limit, least), strategy="longest_first")
    try:
        yield
    finally:
        tokenizer.no_truncation()


def _row(found: Encoding) -> TokenRow:
    type_ids: list[int] = found.type_ids
    return TokenRow(found.ids, type_ids if any(type_ids) else [])
