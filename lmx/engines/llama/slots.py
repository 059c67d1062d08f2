"""Which tokens each slot of the cache holds, and which slot a new prompt should take. Pure.

A slot keeps its tokens after its sequence has ended, so that a prompt that begins the same way need
not compute them again: a conversation's next turn, or another one under the same system prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lmx.engines.base import PrefixOutlook, PrefixUse

# Below this a copy is not worth losing track of which slot was used last.
MIN_SHARED_TOKENS = 4
# What is told of the tokens that a prompt parts from: enough for a line of text.
TOLD_TOKENS = 48


class Held(NamedTuple):
    """Tokens that the cache holds, and whose they are.

    Attributes:
        salt: Nobody else's prompt begins with them.
        ids: Only ever gets longer or shorter by tokens of the same salt.
    """

    salt: str
    ids: list[int]


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence number of llama.cpp's cache.

    Attributes:
        number: The sequence number.
        held: What the cache holds for it. Exchanged as a whole, because other threads look.
        is_free: No live sequence owns it.
        used_at: When it was last given out or back, on the table's count.
        first: The first position that layers with a sliding window still have.
        saved_tokens: Leading tokens that were offered to the prefix store.
    """

    number: int
    held: Held = field(default_factory=lambda: Held("", []))
    is_free: bool = True
    used_at: int = 0
    first: int = 0
    saved_tokens: int = 0

    @property
    def resident(self) -> list[int]:
        """Tokens whose keys and values the cache holds for it."""
        return self.held.ids

    @property
    def salt(self) -> str:
        """Whose tokens it holds."""
        return self.held.salt

    def truncate(self, length: int) -> None:
        """The cache holds only so many of its tokens any more."""
        del self.held.ids[length:]
        self.saved_tokens = min(self.saved_tokens, length)

    def refill(self, salt: str, ids: Sequence[int] = ()) -> None:
        """The cache holds these tokens instead of what it held."""
        self.held = Held(salt, list(ids))
        self.first = self.saved_tokens = 0


class Placement(NamedTuple):
    """Where a new sequence goes.

    Attributes:
        slot: Its slot, taken.
        source: The slot whose leading tokens it begins with; may be `slot` itself, or `None`.
        length: How many of them.
    """

    slot: Slot
    source: Slot | None
    length: int


class SlotTable:
    """All slots of one context.

    Args:
        count: How many.
        can_rewind: Whether a sequence may begin with part of what a slot holds.
        window_tokens: How far layers with a sliding window look back; 0 if there are none.
    """

    def __init__(self, count: int, *, can_rewind: bool, window_tokens: int = 0) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._can_rewind = can_rewind
        self._window_tokens = window_tokens
        self._clock = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def count(self) -> int:
        """Of slots, given out or not."""
        return len(self._slots)

    @property
    def is_recurrent(self) -> bool:
        """What a slot holds can be gone on from at its end only, and by one prompt."""
        return not self._can_rewind

    @property
    def window_tokens(self) -> int:
        """How far layers with a sliding window look back; 0 if there are none."""
        return self._window_tokens

    @property
    def free_count(self) -> int:
        """Slots that `take` can give."""
        return sum(slot.is_free for slot in self._slots)

    def take(
        self, token_ids: Sequence[int], *, salt: str = "", may_reuse: bool = True
    ) -> Placement:
        """Give a free slot to a prompt, the one that saves it most work.

        The last token is always computed, because its logits are wanted. A slot whose tokens are
        mostly those of the prompt is continued; otherwise they are shared with the slot that was
        unused for longest, and the other conversation keeps its own. A slot that is not continued
        still holds the tokens it had, under their own salt.

        Args:
            token_ids: The prompt.
            salt: Whose it is.
            may_reuse: Whether computed tokens may be skipped.
        """
        source, length = self.best_match(token_ids, salt) if may_reuse else (None, 0)
        free = [slot for slot in self._slots if slot.is_free]
        if source is not None and source.is_free and 2 * length >= len(source.resident):
            slot = source
        else:
            slot = min(free, key=lambda s: (s is source, bool(s.resident), s.used_at))
            source = source if self._can_rewind else None
        slot.is_free = False
        self._touch(slot)
        return Placement(slot, source, length if source is not None else 0)

    def give_back(self, slot: Slot) -> None:
        """A sequence has ended; its tokens stay."""
        slot.is_free = True
        self._touch(slot)

    def oldest_idle(self) -> Slot | None:
        """The free slot with tokens that was unused for longest."""
        return min(self._idle(), key=lambda slot: slot.used_at, default=None)

    def unsaved(self) -> list[Slot]:
        """Free slots with tokens that were not offered to the prefix store, youngest first."""
        found = [slot for slot in self._idle() if slot.saved_tokens < len(slot.resident)]
        return sorted(found, key=lambda slot: -slot.used_at)

    def foresee(self, token_ids: Sequence[int], prefix: PrefixUse) -> PrefixOutlook:
        """What `take` would skip now, and why not more. From any thread."""
        known, resident, cached = 0, list[int](), 0
        for slot in self._slots:
            salt, ids = slot.held
            if salt != prefix.salt or not ids:
                continue
            ids = list(ids)  # the engine's thread may change what it reads here
            length = common_length(ids, token_ids, len(token_ids))
            usable = self._usable(slot, len(ids), min(length, len(token_ids) - 1))
            if (usable, length) > (cached, known):
                known, resident, cached = length, ids, usable
        if known < MIN_SHARED_TOKENS:
            return PrefixOutlook(0, "no-entry")
        if cached == len(token_ids) - 1:
            return PrefixOutlook(cached, "full", known)
        is_whole = known == len(resident)
        if is_whole or 0 < prefix.turn_start <= known:
            return PrefixOutlook(cached, "new", known)
        return PrefixOutlook(cached, "diverged", known, tuple(resident[known:][:TOLD_TOKENS]))

    def best_match(self, token_ids: Sequence[int], salt: str) -> tuple[Slot | None, int]:
        """The slot that holds most leading tokens of a prompt, and how many can be skipped."""
        limit = len(token_ids) - 1
        best: Slot | None = None
        best_length = MIN_SHARED_TOKENS - 1
        for slot in self._slots:
            if slot.salt != salt:
                continue
            length = common_length(slot.resident, token_ids, limit)
            length = self._usable(slot, len(slot.resident), length)
            if length > best_length or (length == best_length and best and slot.is_free):
                best, best_length = slot, length
        return best, best_length if best is not None else 0

    def _usable(self, slot: Slot, held: int, length: int) -> int:
        """How many of the leading tokens that a slot shares with a prompt it can begin with."""
        is_kept = self._can_rewind or slot.is_free  # recurrent state is never shared
        if length < MIN_SHARED_TOKENS or not is_kept:
            return 0
        if length == held:
            return length
        # Recurrent state goes on from its end or not at all, and a sliding window must be whole.
        has_window = slot.first <= max(0, length - self._window_tokens)
        return length if self._can_rewind and has_window else 0

    def _idle(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.is_free and slot.resident]

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock


def common_length(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """How many leading ids are equal, at most `limit`. Compares runs, not ids one by one."""
    end = min(len(first), len(second), limit)
    one, two = list(first[:end]), list(second[:end])
    if one == two:
        return end
    low, high = 0, end  # so many are equal; so many are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle
    return low
