"""Takes what slots hold into the prefix store, and puts it back. Knows no prompts and no passes.

What is kept of a slot comes in blocks of its tokens, or as one snapshot where the model's state
cannot be cut. Engine thread only.
"""

from collections.abc import Callable, Sequence

from lmx.engines.llama.slots import Slot
from lmx.engines.llama.states import (
    BLOCK_TOKENS,
    Block,
    LlamaStore,
    StateSegment,
    StateSnapshot,
    block_ends,
    choose_block_tokens,
)
from lmx.engines.llama.transfer import StateTransfer
from lmx.engines.prefix.store import Found
from lmx.engines.prefix.tree import TokenIds, make_key

# Of a long slot that has to go at once, so much is copied before the store has to take it.
SAVED_TOKENS = 8 * BLOCK_TOKENS


class StateKeeper:
    """One context's way into its store and out of it.

    Args:
        transfer: Reads and writes the cache.
        store: What is kept.
        window_tokens: How far layers with a sliding window look back; 0 if there are none.
    """

    def __init__(
        self, transfer: StateTransfer, store: LlamaStore, *, window_tokens: int = 0
    ) -> None:
        self._transfer = transfer
        self._store = store
        self._window_tokens = window_tokens
        self._block_tokens = choose_block_tokens(window_tokens)

    def save(self, slot: Slot, most_tokens: int) -> None:
        """Offer what a slot holds to the store, as far as it is not there.

        Args:
            slot: Is about to lose it.
            most_tokens: Copied of it, from the first missing one on.
        """
        if not self._store.is_on:
            return
        self.note_windows([slot])  # what is restored for others takes cells behind windows, too
        slot.saved_tokens = 0
        while slot.saved_tokens < len(slot.resident) and most_tokens > 0:
            self.save_more(slot, SAVED_TOKENS)
            most_tokens -= SAVED_TOKENS

    def save_more(self, slot: Slot, most_tokens: int) -> None:
        """Offer the next part of a slot's tokens; `saved_tokens` grows, whatever becomes of it.

        Args:
            slot: Has tokens that were not offered.
            most_tokens: At least a block's; it is made to end with one. A snapshot is always whole.
        """
        ids = make_key(slot.resident)
        done, slot.saved_tokens = slot.saved_tokens, len(ids)
        wanted = self._store.wanted(ids, slot.salt)
        # What was saved and is gone was evicted: it would go again.
        if wanted is None or wanted.start < done:
            return
        start = wanted.start
        if self._store.needs_snapshots:
            rest = StateSegment(start, len(ids)) if start < len(ids) else None
            snapshot = StateSnapshot(self._transfer.take(slot.number))
            self._store.keep(ids, slot.salt, segment=rest, snapshot=snapshot)
        elif slot.first <= start:
            end = min(len(ids), (start + most_tokens) // BLOCK_TOKENS * BLOCK_TOKENS)
            segment = self._cut_segment(slot, start, end)
            if self._store.keep(ids[:end], slot.salt, segment=segment):
                slot.saved_tokens = end

    def restore(self, slot: Slot, ids: TokenIds, make_room: Callable[[], bool]) -> None:
        """Put what is there of a prompt into its slot, if that is more than the slot holds.

        Args:
            slot: The prompt's own, which holds some of its first tokens, or none.
            ids: The prompt.
            make_room: Frees cells of others; false if none can be freed.
        """
        found = self._store.find(ids, slot.salt, beyond=len(slot.resident))
        if found is None:
            return
        self._put(slot, ids, found, make_room=make_room)
        self._check(slot)

    def note_windows(self, slots: Sequence[Slot]) -> None:
        """See what layers with sliding windows still have of each slot."""
        for slot in slots if self._window_tokens else ():
            if slot.resident:
                slot.first = self._transfer.first(slot.number)

    def _put(
        self,
        slot: Slot,
        ids: TokenIds,
        found: Found[StateSegment, StateSnapshot],
        *,
        make_room: Callable[[], bool],
    ) -> None:
        if found.snapshot is not None:
            while not self._put_snapshot(slot, ids[: found.tokens], found.snapshot):
                if not make_room():
                    return
            return
        for segment, tokens in found.pieces:
            for block in segment.blocks:
                start = max(block.start, segment.start, len(slot.resident))
                end = min(block.end, segment.start + tokens)
                if start >= end:
                    continue
                while not self._transfer.put_range(block.data, slot.number, start=start, end=end):
                    if not make_room():
                        return
                slot.resident.extend(ids[start:end])
                slot.saved_tokens = end

    def _check(self, slot: Slot) -> None:
        """Go on from what is whole, or from nothing: llama.cpp fails on positions that are not."""
        held, first = len(slot.resident), self._transfer.first(slot.number)
        has_window = first <= max(0, held - self._window_tokens)
        if self._transfer.length(slot.number) != held or not has_window:
            self._transfer.drop(slot.number)
            slot.refill(slot.salt)

    def _cut_segment(self, slot: Slot, start: int, end: int) -> StateSegment:
        blocks = []
        at = start
        for stop in block_ends(start, end, self._block_tokens):
            blocks.append(Block(at, stop, self._transfer.take_range(slot.number, at, stop)))
            at = stop
        return StateSegment(start, end, tuple(blocks))

    def _put_snapshot(self, slot: Slot, ids: TokenIds, snapshot: StateSnapshot) -> bool:
        is_put = self._transfer.put(snapshot.data, slot.number)
        slot.refill(slot.salt, ids if is_put else ())
        slot.saved_tokens = len(slot.resident)
        return is_put
