"""Which tokens each slot of the cache holds, and which slot a new prompt should take. Pure.

A slot keeps its tokens after its sequence has ended, so that a prompt that begins the same way need
not compute them again: a conversation's next turn, or another one under the same system prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lmx.engines.base import PrefixOutlook, PrefixUse

# Below this a copy is not worth losing track of which slot was used last.
MIN_SHARED_TOKENS = 4
# What is told of the tokens that a prompt parts from: enough for a line of text.
TOLD_TOKENS = 48


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence number of llama.cpp's cache.

    Attributes:
        number: The sequence number.
        resident: Tokens whose keys and values the cache holds for it.
        is_free: No live sequence owns it.
        used_at: When it was last given out or back, on the table's count.
        salt: Whose tokens it holds; nobody else's prompt begins with them.
    """

    number: int
    resident: list[int] = field(default_factory=list)
    is_free: bool = True
    used_at: int = 0
    salt: str = ""


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
    """

    def __init__(self, count: int, *, can_rewind: bool) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._can_rewind = can_rewind
        self._clock = 0

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
        unused for longest, and the other conversation keeps its own.

        Args:
            token_ids: The prompt.
            salt: Whose it is.
            may_reuse: Whether computed tokens may be skipped.
        """
        source, length = self._best_match(token_ids, salt) if may_reuse else (None, 0)
        free = [slot for slot in self._slots if slot.is_free]
        if source is not None and source.is_free and 2 * length >= len(source.resident):
            slot = source
        else:
            slot = min(free, key=lambda s: (s is source, bool(s.resident), s.used_at))
            source = source if self._can_rewind else None
        slot.is_free = False
        slot.salt = salt
        self._touch(slot)
        return Placement(slot, source, length if source is not None else 0)

    def give_back(self, slot: Slot) -> None:
        """A sequence has ended; its tokens stay."""
        slot.is_free = True
        self._touch(slot)

    def oldest_idle(self) -> Slot | None:
        """The free slot with tokens that was unused for longest."""
        idle = [slot for slot in self._slots if slot.is_free and slot.resident]
        return min(idle, key=lambda slot: slot.used_at, default=None)

    def foresee(self, token_ids: Sequence[int], prefix: PrefixUse) -> PrefixOutlook:
        """What `take` would skip now, and why not more. From any thread."""
        # Copies, because the engine's thread may change what it reads here.
        held = [list(slot.resident) for slot in self._slots if slot.salt == prefix.salt]
        lengths = [common_length(tokens, token_ids, len(token_ids)) for tokens in held]
        known = max(lengths, default=0)
        if known < MIN_SHARED_TOKENS:
            return PrefixOutlook(0, "no-entry")
        resident = held[lengths.index(known)]
        is_whole = known == len(resident)
        cached = min(known, len(token_ids) - 1) if is_whole or self._can_rewind else 0
        if cached == len(token_ids) - 1:
            return PrefixOutlook(cached, "full", known)
        if is_whole or 0 < prefix.turn_start <= known:
            return PrefixOutlook(cached, "new", known)
        return PrefixOutlook(cached, "diverged", known, tuple(resident[known:][:TOLD_TOKENS]))

    def _best_match(self, token_ids: Sequence[int], salt: str) -> tuple[Slot | None, int]:
        limit = len(token_ids) - 1
        best: Slot | None = None
        best_length = MIN_SHARED_TOKENS - 1
        for slot in self._slots:
            if slot.salt != salt:
                continue
            length = common_length(slot.resident, token_ids, limit)
            if not self._can_rewind and (length < len(slot.resident) or not slot.is_free):
                continue  # recurrent state goes on from its end or not at all
            if length > best_length or (length == best_length and best and slot.is_free):
                best, best_length = slot, length
        return best, best_length if best is not None else 0

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock


def common_length(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """How many leading ids are equal, at most `limit`."""
    end = min(len(first), len(second), limit)
    if list(first[:end]) == list(second[:end]):
        return end
    return next(i for i in range(end) if first[i] != second[i])
