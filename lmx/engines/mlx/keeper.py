"""Takes prompts and answers out of the caches into the prefix store, and puts them back.

Knows caches and token ids, no sampling and no clients. What is kept is copied once, the new tokens
only, on the device's own time: nothing waits for it.
"""

from time import perf_counter
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.leaves import (
    KvSegment,
    RowState,
    can_cut,
    can_keep,
    copy_state,
    cut,
    fill,
    leaves_of,
    token_bytes,
)
from lmx.engines.prefix.store import PrefixStore
from lmx.engines.prefix.tier import DiskTier, Recall
from lmx.engines.prefix.tree import TokenIds

MlxStore = PrefixStore[KvSegment, RowState]
MlxTier = DiskTier[KvSegment, RowState]
MlxRecall = Recall[KvSegment, RowState]
# Of each pass while a prompt is read from disk: others decode, and a client may give up.
READ_S = 0.03
# For what a worker that ends still writes; the daemon waits two seconds for it.
CLOSE_S = 1.0
# What is kept in one piece, where it can be cut, is read from disk in one piece: running streams
# wait for its bytes and their digest.
PIECE_BYTES = 64 << 20


def make_store(model: Any, budget_bytes: int) -> MlxStore:
    """A store for this model; it keeps nothing if the model's caches cannot be taken apart."""
    leaves = leaves_of(make_prompt_cache(model))
    is_on = all(can_keep(leaf) for leaf in leaves)
    needs_snapshots = not all(can_cut(leaf) for leaf in leaves)
    return MlxStore(budget_bytes if is_on else 0, needs_snapshots=needs_snapshots)


class PrefixKeeper:
    """One model's way into its store and out of it.

    Args:
        model: An mlx-lm model.
        store: What is kept.
        disk: What is kept beyond the model's life.
        piece_bytes: Most that is kept in one piece, where it can be cut.
    """

    def __init__(
        self,
        model: Any,
        store: MlxStore,
        disk: MlxTier | None = None,
        *,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._piece_bytes = piece_bytes
        self._model = model
        self._store = store
        self._disk = disk

    @property
    def store(self) -> MlxStore:
        """What is kept."""
        return self._store

    @property
    def needs_stops(self) -> bool:
        """Only where a pass ends can a prompt be gone on from."""
        return self._store.is_on and self._store.needs_snapshots

    def look_up(self, ids: TokenIds, salt: str) -> MlxRecall | None:
        """What is on disk of a prompt, if it pays to read it."""
        return None if self._disk is None else self._disk.look_up(ids, salt)

    def recall(self, recall: MlxRecall) -> bool:
        """Read on for a moment; whether it is over."""
        return recall.read(perf_counter() + READ_S)

    def note_computed(self, tokens: int, seconds: float) -> None:
        """So many tokens of a prompt took the device so long."""
        if self._disk is not None and tokens:
            self._disk.note_computed(tokens, seconds)

    def rest(self) -> bool:
        """Offer the disk some of what it has not got; whether there is more."""
        return self._disk is not None and self._disk.rest()

    def wake(self) -> None:
        """There is work."""
        if self._disk is not None:
            self._disk.wake()

    def usable_tokens(self, ids: TokenIds, salt: str) -> int:
        """Leading tokens of a prompt that `resume` would give."""
        return self._store.usable_tokens(ids, salt)

    def resume(self, ids: TokenIds, salt: str, *, beyond: int) -> tuple[CacheRows, int] | None:
        """Caches of one row that hold the beginning of a prompt, and how much of it.

        Args:
            ids: The prompt.
            salt: Whose it is.
            beyond: Tokens that are computed already; much more than that, or nothing.
        """
        found = self._store.find(ids, salt, beyond=beyond)
        if found is None:
            return None
        layers = make_prompt_cache(self._model)
        fill(leaves_of(layers), found.pieces, found.snapshot, room_tokens=len(ids))
        return CacheRows(layers, is_batched=False), found.tokens

    def keep(self, ids: TokenIds, salt: str, caches: CacheRows, *, row: int, length: int) -> None:
        """Remember what a row holds of these tokens, as far as it is not there yet.

        Args:
            ids: The row's tokens from the first on, as many as are known.
            salt: Whose they are.
            caches: Of the row's group.
            row: Which.
            length: Tokens that the caches have of it, which may be more than are known.
        """
        ids = ids[:length]
        wanted = self._store.wanted(ids, salt)
        if wanted is None:
            return
        leaves = leaves_of(caches.layers)
        ends = [len(ids)]
        if not self._store.needs_snapshots:
            step = max(1, self._piece_bytes // max(1, token_bytes(leaves)))
            ends = [*range(wanted.start + step, len(ids), step), len(ids)]
        for end in ends:
            self._keep_piece(ids[:end], salt, leaves, row=row, length=length)

    def _keep_piece(
        self, ids: TokenIds, salt: str, leaves: list[Any], *, row: int, length: int
    ) -> None:
        wanted = self._store.wanted(ids, salt)
        if wanted is None:
            return
        state = None
        if wanted.snapshot:
            state = copy_state(leaves, row, length=length) if length == len(ids) else None
            if state is None:
                return
        segment = None
        if wanted.start < len(ids):
            segment = cut(leaves, row, length=length, start=wanted.start, end=len(ids))
            if segment is None:
                return
        if self._store.keep(ids, salt, segment=segment, snapshot=state):
            mx.async_eval(
                [] if segment is None else segment.arrays(), [] if state is None else state.arrays()
            )

    def release_model(self) -> None:
        """Let go of the weights and of everything kept, and write what there is time for."""
        if self._disk is not None:
            self._disk.close(CLOSE_S)
            self._disk = None
        self._store.clear()
        self._model = None
