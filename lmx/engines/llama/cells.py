"""What llama.cpp's one cache holds, and the prefix store behind it. No passes, no sampling.

Two places have what was computed before: slots, which share cells and copy nothing, and the store,
in host memory and perhaps on disk. Whatever leaves a slot goes to the store first. Engine thread
only, but for `foresee`.
"""

from collections.abc import Sequence
from time import perf_counter

from lmx.engines.base import PrefixOutlook, PrefixUse
from lmx.engines.llama.keeper import StateKeeper
from lmx.engines.llama.library import LlamaContext, LlamaModel
from lmx.engines.llama.slots import MIN_SHARED_TOKENS, Slot, SlotTable
from lmx.engines.llama.states import BLOCK_TOKENS, NOTHING_KEPT, Tiers
from lmx.engines.llama.transfer import StateTransfer
from lmx.engines.prefix.store import LEAST_TOKENS
from lmx.engines.prefix.tree import TokenIds
from lmx.protocol.values import Kept, Memory, ModelInfo

# Of the time that others decode, for keeping what ended answers left.
SAVE_SHARE = 0.03
# What is copied out of the cache at once, at some gigabytes a second: when there is nothing else to
# do, when a slot is needed and others decode, and when the worker ends.
REST_BYTES, DISPLACED_BYTES, CLOSE_BYTES = 32 << 20, 256 << 20, 1 << 30
# For what a worker that ends still writes; the daemon waits two seconds for it.
CLOSE_S = 1.0


class Cells:
    """The slots of one context, and the store behind them.

    Args:
        context: Has one sequence more than the table, if the store is on and takes ranges.
        slots: The table.
        kept: What is kept of what leaves a slot, and where.
        weight_bytes: What the weights take.
        bytes_per_token: What a token takes in the cache.
    """

    def __init__(
        self,
        context: LlamaContext,
        slots: SlotTable,
        kept: Tiers,
        *,
        weight_bytes: int,
        bytes_per_token: int,
    ) -> None:
        self._context = context
        self._slots = slots
        self._kept = kept
        self._fixed_bytes = weight_bytes + context.size.cells * bytes_per_token
        self._bytes_per_token = max(1, bytes_per_token)
        self._saves_again_s = 0.0
        transfer = StateTransfer(context, spare=slots.count)
        self._keeper = StateKeeper(transfer, kept.store, window_tokens=slots.window_tokens)

    @property
    def slots(self) -> SlotTable:
        """Who has which; they keep their tokens when they are given back."""
        return self._slots

    @property
    def kept(self) -> Tiers:
        """Where what leaves a slot goes."""
        return self._kept

    def take(self, prompt_ids: Sequence[int], salt: str, *, may_reuse: bool) -> Slot:
        """A slot for a prompt, with as much of it as some slot has."""
        slot, source, length = self._slots.take(prompt_ids, salt=salt, may_reuse=may_reuse)
        if source is slot:
            self.cut(slot, length)
            return slot
        self.empty(slot, salt)
        if source is not None:
            self._begin_with(slot, source, length)
        return slot

    def copy(self, source: Slot, target: Slot) -> None:
        """Let an empty slot have all that another one has, recurrent state too."""
        self._context.share(source.number, target.number, len(source.resident))
        target.refill(source.salt, source.resident)
        target.first = source.first

    def resume(self, slot: Slot, ids: TokenIds) -> None:
        """Take what is there by now of a prompt, instead of computing it.

        Args:
            slot: The prompt's own.
            ids: The prompt, or all of an answer that lost its cells.
        """
        source, length = self._slots.best_match(ids, slot.salt)
        is_more = length >= len(slot.resident) + MIN_SHARED_TOKENS
        if source is not None and is_more and not self._slots.is_recurrent:
            self.empty(slot, slot.salt)
            self._begin_with(slot, source, length)
        self._keeper.restore(slot, ids, self.free_idle)
        self._note_windows()

    def cut(self, slot: Slot, length: int) -> None:
        """Keep the first `length` tokens of a slot, or none where the model cannot do that.

        What a pass that did not end left in the cache goes, too.
        """
        if length < len(slot.resident):
            self._keeper.save(slot, self._tokens(DISPLACED_BYTES))
        is_cut = length > 0 and self._context.cut(slot.number, length)
        if is_cut and self._context.length(slot.number) == length:
            slot.truncate(length)
            return
        self._context.cut(slot.number, 0)
        slot.refill(slot.salt)

    def empty(self, slot: Slot, salt: str) -> None:
        """Give a slot's cells back, and the slot to somebody else."""
        self._keeper.save(slot, self._tokens(DISPLACED_BYTES))
        self._context.cut(slot.number, 0)
        slot.refill(salt)

    def free_idle(self) -> bool:
        """Give back the cells of the slot that was unused for longest; False if all are used."""
        idle = self._slots.oldest_idle()
        if idle is not None:
            self.empty(idle, idle.salt)
        return idle is not None

    def save(self, slot: Slot) -> None:
        """Offer all that a slot holds to the store, as far as it is not there."""
        self._keeper.save(slot, len(slot.resident))

    def settle(self) -> None:
        """After a pass: see what it took, and keep a block of what ended sequences left.

        That takes `SAVE_SHARE` of the time, whatever a copy takes.
        """
        self._note_windows()
        now_s = perf_counter()
        if now_s >= self._saves_again_s:
            self._save_idle(BLOCK_TOKENS)
            took_s = perf_counter() - now_s
            self._saves_again_s = now_s + took_s / SAVE_SHARE

    def rest(self) -> bool:
        """Keep some of what ended sequences left, then write some of that to disk.

        Returns:
            Whether there is more to do soon.
        """
        if self._save_idle(self._tokens(REST_BYTES)):
            return True
        return self._kept.disk is not None and self._kept.disk.rest()

    def close(self) -> None:
        """Write what there is time for, and let go of everything kept. Idempotent."""
        if self._kept.disk is not None:
            self._save_idle(self._tokens(CLOSE_BYTES))
            self._kept.disk.close(CLOSE_S)
        self._kept.store.clear()
        self._kept = NOTHING_KEPT

    def memory(self) -> Memory:
        """What was allocated at load, and what the store holds besides."""
        fixed_bytes, kept = self._fixed_bytes, Kept(*self._kept.store.state)
        return Memory(fixed_bytes, kept.size_bytes, fixed_bytes + kept.size_bytes, kept)

    def foresee(self, token_ids: Sequence[int], prefix: PrefixUse) -> PrefixOutlook:
        """What of a prompt is there, wherever. From any thread."""
        in_slots = self._slots.foresee(token_ids, prefix)
        if not self._kept.store.is_on:
            return in_slots
        kept = self._kept.store.foresee(token_ids, prefix)
        if not in_slots.cached_tokens:
            return kept if kept.known_tokens >= in_slots.known_tokens else in_slots
        is_worth = kept.cached_tokens >= in_slots.cached_tokens + LEAST_TOKENS
        return kept if is_worth else in_slots

    def _tokens(self, size_bytes: int) -> int:
        """How many tokens' state is so large; a block's at least."""
        return max(BLOCK_TOKENS, size_bytes // self._bytes_per_token)

    def _save_idle(self, most_tokens: int) -> bool:
        """Keep so much of what ended sequences left, the last first; whether there is more."""
        if not self._kept.store.is_on:
            return False
        for slot in self._slots.unsaved():
            if most_tokens <= 0:
                return True
            before = slot.saved_tokens
            self._keeper.save_more(slot, max(BLOCK_TOKENS, most_tokens))
            most_tokens -= slot.saved_tokens - before
        return bool(self._slots.unsaved())

    def _begin_with(self, slot: Slot, source: Slot, length: int) -> None:
        self._context.share(source.number, slot.number, length)
        slot.refill(slot.salt, source.resident[:length])
        slot.first = source.first
        if self._context.length(slot.number) != length:
            self._context.cut(slot.number, 0)
            slot.refill(slot.salt)

    def _note_windows(self) -> None:
        """A pass, and what is restored, may take cells behind sliding windows."""
        self._keeper.note_windows(list(self._slots))


def make_cells(
    model: LlamaModel, context: LlamaContext, info: ModelInfo, *, kept: Tiers = NOTHING_KEPT
) -> Cells:
    """All slots empty.

    Args:
        model: What the context is of.
        context: With a store that is on and takes ranges, it has one sequence more than `info`.
        info: How many slots, and what a token takes.
        kept: Where what leaves a slot goes.
    """
    slots = SlotTable(
        info.max_sequences, can_rewind=model.can_rewind, window_tokens=model.window_tokens
    )
    return Cells(
        context,
        slots,
        kept,
        weight_bytes=model.weight_bytes,
        bytes_per_token=info.kv_bytes_per_token,
    )


def forget(cells: Cells) -> None:
    """Nothing that was computed so far is gone on from. No sequence may be live."""
    for slot in cells.slots:
        cells.cut(slot, 0)  # it goes to the store
    cells.kept.store.clear()
