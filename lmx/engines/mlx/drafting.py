"""A small model that says how a text may go on. Knows token ids and its own caches, not sequences.

It follows one text at a time. What it has computed of it stays, and so does what the next text has
in common with it. Its choices are guesses: the large model checks every one of them.

Shapes: V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from lmx.engines.mlx.caches import CacheRows

# Tokens that a draft may begin with computing; more are computed ahead, in chunks.
READY_TOKENS = 64


class DraftModel:
    """Continues a text, greedily.

    Args:
        model: An mlx-lm model, evaluated, whose caches can be cut back; see `can_draft`.
        context_tokens: Longest text it may see.
        chunk_tokens: Most tokens that one `advance` computes.
        vocabulary_size: Ids that the large model knows.
    """

    def __init__(
        self, model: Any, *, context_tokens: int, chunk_tokens: int, vocabulary_size: int
    ) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._chunk_tokens = chunk_tokens
        self._vocabulary_size = vocabulary_size
        self._caches: CacheRows | None = None
        self._held: list[int] = []  # the tokens that the caches hold

    def has_room(self, token_ids: Sequence[int], count: int) -> bool:
        """A draft of so many tokens stays within its context."""
        return len(token_ids) + count <= self._context_tokens

    def is_ready(self, token_ids: Sequence[int]) -> bool:
        """A draft behind this text would not have to compute much of the text first."""
        self._part(token_ids)
        return len(token_ids) - len(self._held) <= READY_TOKENS

    def advance(self, token_ids: Sequence[int]) -> None:
        """Submit a part of the text; does not wait for it."""
        caches = self._part(token_ids)
        end = min(len(token_ids) - 1, len(self._held) + self._chunk_tokens)
        missing = list(token_ids[len(self._held) : end])
        if missing:
            self._model(mx.array([missing]), cache=caches.layers)
            mx.async_eval(caches.states())
            self._held += missing

    def draft(self, token_ids: Sequence[int], count: int) -> list[int]:
        """How the text may go on; waits for the device.

        Args:
            token_ids: The whole text, at least one token.
            count: How many tokens, at least 1.
        """
        caches = self._part(token_ids)
        missing = list(token_ids[len(self._held) :])
        inputs = mx.array([missing])  # (1, T)
        chosen: list[mx.array] = []
        for _ in range(count):
            logits = self._model(inputs, cache=caches.layers)[:, -1, : self._vocabulary_size]
            inputs = mx.argmax(logits, axis=-1)[:, None]  # (1, 1)
            chosen.append(inputs)
        drafted: list[int] = mx.concatenate(chosen, axis=1)[0].tolist()  # type: ignore[assignment]
        self._held += [*missing, *drafted[:-1]]
        return drafted

    def forget(self) -> None:
        """Give the caches back."""
        self._caches, self._held = None, []

    def release_model(self) -> None:
        """Let go of the weights; nothing may be drafted afterwards."""
        self.forget()
        self._model = None

    def _part(self, token_ids: Sequence[int]) -> CacheRows:
        """Keep what the caches have in common with a text, but for its last token."""
        common = _common_length(self._held, token_ids[: len(self._held)])
        common = min(common, len(token_ids) - 1)
        if self._caches is None:
            self._caches = CacheRows.single(self._model)
        elif common < len(self._held):
            self._caches.rewind(len(self._held) - common)
            del self._held[common:]
        return self._caches


def can_draft(model: Any) -> bool:
    """The model's caches can be cut back at any time."""
    return CacheRows.single(model).is_always_rewindable


def _common_length(first: list[int], second: Sequence[int]) -> int:
    if first == list(second):
        return len(first)
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
