"""Passages and their vectors, in memory. No I/O; a vector that is known is not asked for again."""

import heapq
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import mul

from msgspec import Struct

from lmx.skills.search.survey import Signature

MAX_PASSAGES = 20_000


class Passage(Struct, frozen=True):
    """A piece of a document.

    Attributes:
        path: Its file.
        line: Number of its first line, from 1.
        text: What stands there.
    """

    path: str
    line: int
    text: str


class Hit(Struct, frozen=True):
    """A passage and how well it fits."""

    passage: Passage
    score: float


class Index:
    """Passages by file, and vectors by text.

    Attributes:
        is_full: Some passages were left out, because there are `MAX_PASSAGES`.
        passage_count: Passages of all files.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.passage_count = 0
        self._files: dict[str, tuple[Signature, list[Passage]]] = {}
        self._vectors: dict[str, array[float]] = {}
        self._model_id = ""

    @property
    def file_count(self) -> int:
        """Files that have passages."""
        return sum(bool(passages) for _, passages in self._files.values())

    def use_model(self, model_id: str) -> None:
        """Vectors of another model mean nothing to this one and are forgotten."""
        if model_id != self._model_id:
            self._vectors.clear()
        self._model_id = model_id

    def changed(self, found: dict[str, Signature]) -> list[str]:
        """Forget files that are gone, and say which are new or different."""
        for path in self._files.keys() - found.keys():
            self._drop(path)
        return [
            path
            for path, signature in found.items()
            if path not in self._files or self._files[path][0] != signature
        ]

    def put(self, path: str, signature: Signature, passages: Iterable[tuple[int, str]]) -> None:
        """A file's passages, in place of those it had."""
        self._drop(path)
        room = MAX_PASSAGES - self.passage_count
        kept = [Passage(path, line, text) for line, text in passages]
        self.is_full = self.is_full or len(kept) > room
        self._files[path] = (signature, kept[:room])
        self.passage_count += len(kept[:room])

    def _drop(self, path: str) -> None:
        _, passages = self._files.pop(path, ((), []))
        self.passage_count -= len(passages)

    def missing(self) -> list[str]:
        """The texts that have no vector yet; forgets vectors of texts that are gone."""
        texts = dict.fromkeys(passage.text for passage in self._passages())
        for text in self._vectors.keys() - texts.keys():
            del self._vectors[text]
        return [text for text in texts if text not in self._vectors]

    def learn(self, texts: Sequence[str], values: bytes) -> None:
        """Keep vectors.

        Args:
            texts: What they are of.
            values: Little-endian float32, one vector after the other.
        """
        for text, vector in zip(texts, split_vectors(values, len(texts)), strict=True):
            self._vectors[text] = unit(vector)

    def nearest(self, query: "array[float]", count: int) -> list[Hit]:
        """The passages whose vectors point most in the direction of `query`, best first."""
        direction = unit(query)
        scored = (
            Hit(passage, sum(map(mul, direction, self._vectors[passage.text])))
            for passage in self._passages()
            if passage.text in self._vectors
        )
        return heapq.nlargest(count, scored, key=lambda hit: hit.score)

    def _passages(self) -> Iterator[Passage]:
        for _, passages in self._files.values():
            yield from passages


def split_vectors(values: bytes, count: int) -> "list[array[float]]":
    """Vectors that stand one after the other."""
    every = array("f")
    every.frombytes(values)
    width = len(every) // count if count else 0
    return [every[place * width : (place + 1) * width] for place in range(count)]


def unit(vector: "array[float]") -> "array[float]":
    """The vector of the same direction with length one."""
    length = math.sqrt(sum(map(mul, vector, vector))) or 1.0
    return array("f", [value / length for value in vector])
