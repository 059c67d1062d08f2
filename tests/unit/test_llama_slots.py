"""Which slot a prompt takes, and what it may skip there."""

from lmx.engines.llama.slots import SlotTable, common_length

SYSTEM = list(range(100, 120))


def test_an_empty_table_gives_each_slot_once() -> None:
    """Four slots, four takes, nothing to skip."""
    table = SlotTable(4, can_rewind=True)
    placements = [table.take([1, 2, 3]) for _ in range(4)]
    assert sorted(p.slot.number for p in placements) == [0, 1, 2, 3]
    assert all(p.source is None and p.length == 0 for p in placements)
    assert table.free_count == 0


def test_the_next_turn_continues_its_own_slot() -> None:
    """A prompt that goes on where an ended sequence stopped takes that slot."""
    table = SlotTable(3, can_rewind=True)
    slot = table.take(SYSTEM).slot
    slot.refill("", [*SYSTEM, 1, 2, 3])
    table.give_back(slot)
    placement = table.take([*SYSTEM, 1, 2, 3, 4])
    assert placement == (slot, slot, 23)


def test_the_last_token_is_always_computed() -> None:
    """The very same prompt skips all but one token, whose logits are wanted."""
    table = SlotTable(2, can_rewind=True)
    slot = table.take(SYSTEM).slot
    slot.refill("", list(SYSTEM))
    table.give_back(slot)
    assert table.take(SYSTEM).length == len(SYSTEM) - 1


def test_a_shared_system_prompt_does_not_cost_the_other_conversation() -> None:
    """A short common beginning is shared; the long conversation keeps its slot."""
    table = SlotTable(3, can_rewind=True)
    slot = table.take(SYSTEM).slot
    slot.refill("", [*SYSTEM, *range(200)])
    table.give_back(slot)
    placement = table.take([*SYSTEM, 7, 8])
    assert placement.slot is not slot
    assert placement.source is slot
    assert placement.length == len(SYSTEM)


def test_a_running_sequence_shares_its_beginning() -> None:
    """The source may be live; it is never taken."""
    table = SlotTable(2, can_rewind=True)
    first = table.take(SYSTEM).slot
    first.refill("", list(SYSTEM))
    placement = table.take([*SYSTEM, 1])
    assert placement.slot is not first
    assert placement.source is first


def test_the_slot_unused_for_longest_goes_first() -> None:
    """Empty slots before filled ones, then the one given back first."""
    table = SlotTable(3, can_rewind=True)
    slots = [table.take([i]).slot for i in range(3)]
    for slot in (slots[1], slots[0], slots[2]):
        slot.refill("", [slot.number] * 9)
        table.give_back(slot)
    assert table.oldest_idle() is slots[1]
    assert table.take([50, 51]).slot is slots[1]
    slots[2].refill("", [])
    assert table.take([60, 61]).slot is slots[2]


def test_recurrent_state_goes_on_from_its_end_or_not_at_all() -> None:
    """No partial reuse and no sharing where a sequence cannot be cut back."""
    table = SlotTable(2, can_rewind=False)
    slot = table.take(SYSTEM).slot
    slot.refill("", list(SYSTEM))
    table.give_back(slot)
    other = table.take([*SYSTEM[:10], 1, 2])
    assert other.source is None
    table.give_back(other.slot)
    again = table.take([*SYSTEM, 1])
    assert again == (slot, slot, len(SYSTEM))


def test_reuse_can_be_declined() -> None:
    """A prompt whose log-probabilities are wanted is computed whole."""
    table = SlotTable(2, can_rewind=True)
    slot = table.take(SYSTEM).slot
    slot.refill("", list(SYSTEM))
    table.give_back(slot)
    assert table.take(SYSTEM, may_reuse=False).length == 0


def test_common_length() -> None:
    """Equal leading ids, never more than the limit."""
    assert common_length([1, 2, 3], [1, 2, 4], 9) == 2
    assert common_length([1, 2, 3], [1, 2, 3, 4], 2) == 2
    assert common_length([], [1], 5) == 0
