"""Texts, and pairs of a query and a document, as rows of a GGUF model of vectors or scores.

Knows ids and templates, no weights. Special tokens stand where the vocabulary's flags, or the
template for reranking, want them; a text is cut so that they stay.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from lmx.engines.llama.library import LlamaModel
from lmx.engines.llama.vocabulary import (
    Frame,
    TextEncoder,
    has_pieces,
    has_vocabulary,
    read_frame,
    read_vocabulary,
)
from lmx.engines.llama.wordpiece import WordPieceEncoder
from lmx.engines.vectors import TokenRow
from lmx.errors import UnsupportedModel

RERANK_KEY = "tokenizer.chat_template.rerank"
QUERY, DOCUMENT = "{query}", "{document}"
PLACE = re.compile(r"\{(?:query|document)\}")

Encode = Callable[[str], list[int]]


class _Segment(NamedTuple):
    """What stands between two special tokens of a template, or is one: then it has its ids."""

    text: str
    ids: list[int] | None = None


class RerankTemplate:
    """A prompt with places for a query and a document.

    Special tokens count as such where the template has them, and nowhere else: a document cannot
    end its part of the prompt.

    Args:
        source: The template.
        encoder: Of the model's vocabulary.

    Raises:
        UnsupportedModel: It has no place for a query, or none for a document.
    """

    def __init__(self, source: str, encoder: TextEncoder) -> None:
        self._encoder = encoder
        marks = sorted(encoder.marks, key=len, reverse=True)
        pattern = "|".join(map(re.escape, marks)) or r"(?!)"  # without any, nothing matches
        pieces = [piece for piece in re.split(f"({pattern})", source) if piece]
        self._segments = [self._segment(piece) for piece in pieces]
        # Where to cut, in this order; a cut before the end of one segment is never made twice.
        self._places = {self._find(DOCUMENT): DOCUMENT}
        self._places.setdefault(self._find(QUERY), QUERY)

    def encode(self, query: str, document: str, limit: int | None) -> list[int]:
        """The ids of a prompt; a long one loses the end of its document, then of its query."""
        values = {QUERY: query, DOCUMENT: document}
        parts = [
            self._fill(segment.text, values) if segment.ids is None else segment.ids
            for segment in self._segments
        ]
        if limit is None:
            return _join(parts)
        for index, place in self._places.items():
            length = sum(map(len, parts))
            if length <= limit:
                break
            before, _, after = self._segments[index].text.partition(place)
            rest = self._fill(after, values, is_inside=True)
            room = limit - (length - len(parts[index])) - len(rest)
            parts[index] = self._fill(before + place, values)[: max(0, room)] + rest
        return _join(parts)[-limit:]

    def _segment(self, piece: str) -> _Segment:
        if piece in self._encoder.marks:
            return _Segment(piece, self._encoder.encode(piece, parses_special=True))
        if PLACE.search(piece):
            return _Segment(piece)
        return _Segment(piece, self._encoder.encode(piece, parses_special=False))

    def _find(self, place: str) -> int:
        found = (index for index, segment in enumerate(self._segments) if place in segment.text)
        index = next(found, None)
        if index is None:
            raise UnsupportedModel(f"its template for reranking has no {place}")
        return index

    def _fill(self, text: str, values: dict[str, str], *, is_inside: bool = False) -> list[int]:
        filled = PLACE.sub(lambda match: values[match[0]], text)
        return self._encoder.encode(filled, parses_special=False, is_inside=is_inside)


class LlamaVectorTokenizer:
    """The `VectorTokenizer` of a GGUF file.

    Args:
        encode: A text's ids, without those that begin and end a row.
        frame: Those that do.
        max_tokens: The longest row.
        vocabulary_size: Token ids are below this.
        template: How a pair is put, or `None` for the frame alone.
    """

    def __init__(
        self,
        encode: Encode,
        frame: Frame,
        *,
        max_tokens: int,
        vocabulary_size: int,
        template: RerankTemplate | None = None,
    ) -> None:
        self._encode = encode
        self._frame = frame
        self._max_tokens = max_tokens
        self._vocabulary_size = vocabulary_size
        self._template = template

    @property
    def max_tokens(self) -> int:
        """The longest row the model takes, special tokens included."""
        return self._max_tokens

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""
        return self._vocabulary_size

    def encode(self, texts: Sequence[str], *, limit: int | None = None) -> list[TokenRow]:
        """One row per text; see `lmx.engines.vectors`."""
        return [self._row(self._encode(text), limit) for text in texts]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int | None = None
    ) -> list[TokenRow]:
        """One row per query and document; see `lmx.engines.vectors`.

        llama.cpp computes every token as if it were of the first segment, so none is named.
        """
        if self._template is not None:
            rows = (self._template.encode(query, text, limit) for query, text in pairs)
            return [TokenRow(row or [self._frame.spare]) for row in rows]
        return [self._pair(self._encode(query), self._encode(text), limit) for query, text in pairs]

    def _row(self, ids: list[int], limit: int | None) -> TokenRow:
        start, _, end, spare = self._frame
        if limit is not None:
            ids = ids[: max(0, limit - len(start) - len(end))]
        row = [*start, *ids, *end] or [spare]
        return TokenRow(row[:limit])

    def _pair(self, query: list[int], document: list[int], limit: int | None) -> TokenRow:
        start, middle, end, spare = self._frame
        if limit is not None:
            room = max(0, limit - len(start) - len(middle) - len(end))
            query, document = _cut_longer(query, document, room)
        row = [*start, *query, *middle, *document, *end] or [spare]
        return TokenRow(row[:limit])


def load_vector_tokenizer(model: LlamaModel, *, max_tokens: int) -> LlamaVectorTokenizer:
    """Read the vocabulary, and the template for reranking if there is one.

    Args:
        model: Stays open as long as the tokenizer.
        max_tokens: The longest row.

    Raises:
        UnsupportedModel: The file has no vocabulary, or its template has no place for the texts.
        CorruptModel: The vocabulary lacks a token that it needs.
    """
    if not has_vocabulary(model):
        raise UnsupportedModel("the file has no vocabulary")
    encode: Encode
    template = None
    if has_pieces(model):
        encode = WordPieceEncoder(model).encode
    else:
        encoder = TextEncoder(model, read_vocabulary(model))
        encode = partial(encoder.encode, parses_special=True)
        source = model.metadata(RERANK_KEY)
        template = None if source is None else RerankTemplate(source, encoder)
    return LlamaVectorTokenizer(
        encode,
        read_frame(model),
        max_tokens=max_tokens,
        vocabulary_size=model.vocabulary_size,
        template=template,
    )


def _cut_longer(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut two texts to `room` ids together, the longer one until both are of a length.

    As tokenizers cuts "longest first": of an odd room the longer one, or the second of two as
    long, gets one more.
    """
    if len(first) + len(second) <= room:
        return first, second
    shorter = min(len(first), len(second))
    if 2 * shorter <= room:
        is_first_longer = len(first) > len(second)
        longer = room - shorter
        return (first[:longer], second) if is_first_longer else (first, second[:longer])
    half = room - room // 2 if len(first) > len(second) else room // 2
    return first[:half], second[: room - half]


def _join(parts: list[list[int]]) -> list[int]:
    return [token_id for part in parts for token_id in part]
