"""The contract of models that answer with numbers: vectors of texts, or scores of pairs.

A row of tokens goes in, a row of numbers comes out, and rows do not know each other: how they are
batched is the scheduler's business and changes nothing. One thread, the one that loaded it, calls
every method of `VectorEngine`; `VectorTokenizer` alone may be used from the intake thread. The
checks in `tests/conformance` are this contract in executable form.

Shapes: N rows of a batch, D numbers of a row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lmx.protocol.values import Memory, ModelInfo

if TYPE_CHECKING:  # the worker's own modules load no engine package
    import numpy as np
    from numpy.typing import NDArray


class TokenRow(NamedTuple):
    """One input as the model reads it.

    Attributes:
        ids: Token ids, special ones included; at least one.
        type_ids: The segment of each id; empty where all are of the first.
    """

    ids: list[int]
    type_ids: list[int] = []  # noqa: RUF012  # nobody changes a row


class VectorTokenizer(Protocol):
    """Texts to rows. Safe for the intake thread, one call at a time."""

    @property
    def max_tokens(self) -> int:
        """The longest row the model takes, special tokens included."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""

    def encode(self, texts: Sequence[str], *, limit: int | None = None) -> list[TokenRow]:
        """One row per text, with the model's special tokens.

        Args:
            texts: Any texts; an empty one is a row of special tokens.
            limit: Cut the text so that the row has at most so many tokens; `None` for no limit.
        """

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int | None = None
    ) -> list[TokenRow]:
        """One row per query and document, as a reranking model reads them.

        Args:
            pairs: Query and document.
            limit: Cut as the model was trained to: usually the longer of the two first.
        """


class VectorEngine(Protocol):
    """Rows of tokens to rows of numbers."""

    @property
    def info(self) -> ModelInfo:
        """Frozen at load; `purpose` says which numbers, `width` how many."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one call of `compute` is best given at most."""

    def compute(self, rows: "Sequence[TokenRow]") -> "NDArray[np.float32]":
        """The numbers of each row.

        A vector is as the model's own modules make it, normalised if they say so; a score is in 0
        to 1.

        Args:
            rows: At least one, each within the tokenizer's `max_tokens`.

        Shapes: -> (N, D) float32; D is 1 for scores.

        Raises:
            OutOfMemory: The device has no room; the engine is still usable with fewer rows.
        """

    def quiesce(self) -> None:
        """Wait until the device has nothing of this engine left to do."""

    def shrink(self) -> None:
        """Give back memory that is only kept for speed."""

    def memory(self) -> Memory:
        """Bytes as the device library counts them."""

    def close(self) -> None:
        """Free everything. Idempotent; no other method may be called after it."""


class LoadedVectors(NamedTuple):
    """What loading gives: an engine that has computed once, its vocabulary, and remarks."""

    engine: VectorEngine
    tokenizer: VectorTokenizer
    notes: list[str]
