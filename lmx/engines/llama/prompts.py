"""Which prompts can go on, in what order, and what each finds computed. No passes, no sampling.

A prompt may wait: for cells, so that those who run need not give up theirs, or for one before it
that computes the same. Neither waits for the other: see `Beginning.is_waiting`.
"""

from collections.abc import Mapping
from itertools import takewhile
from time import perf_counter

from lmx.engines.llama.cells import Cells
from lmx.engines.llama.sequence import Beginning, LiveSequence
from lmx.engines.llama.slots import Slot
from lmx.engines.prefix.tree import make_key

# A sequence that was put off comes back only when there is room for it and this many tokens more
# for everybody who runs, or it would be preempted again at once.
HEADROOM_TOKENS = 32
# Of each step while a prompt is read from disk: others decode, and a client may give up.
READ_S = 0.03


class PromptQueue:
    """The prompts among the live sequences.

    Args:
        live: All sequences, in order of arrival; the engine's own, which changes.
        cells: What is computed.
        cell_count: Tokens that fit the cache.
        can_rewind: Part of what a slot holds is of use to others.
    """

    def __init__(
        self,
        live: Mapping[int, LiveSequence],
        cells: Cells,
        *,
        cell_count: int,
        can_rewind: bool,
    ) -> None:
        self._live = live
        self._cells = cells
        self._cell_count = cell_count
        self._can_rewind = can_rewind
        # What can be gone on from is only where a pass ended.
        self._keeps_ends = cells.kept.store.is_on and cells.kept.store.needs_snapshots

    def able(self) -> list[LiveSequence]:
        """All sequences but those whose prompt another choice computes."""
        return [sequence for sequence in self._live.values() if sequence.leader is None]

    def ready(self) -> list[LiveSequence]:
        """Those that lack more than a decode row and have cells to go on, or somebody ahead.

        In order of arrival: a prompt that has to wait for cells is not overtaken by one that needs
        fewer.
        """
        able = self.able()
        prompts = [sequence for sequence in able if sequence.missing > 1]
        going = [sequence for sequence in prompts if not sequence.is_waiting]
        begun = [sequence for sequence in going if sequence.slot.resident]
        fresh = [sequence for sequence in going if not sequence.slot.resident]
        found = begun + list(takewhile(lambda s: self._has_cells_for(s, able), fresh))
        waiting = [sequence for sequence in prompts if sequence.is_waiting]
        return found + [sequence for sequence in waiting if self.in_front(sequence) in found]

    def in_front(self, sequence: LiveSequence) -> LiveSequence:
        """Whose pass brings a sequence on: its own, or that of the one it waits for.

        So that whoever waits for a less urgent one makes that one as urgent.
        """
        while sequence.is_waiting and sequence.beginning.ahead is not None:
            sequence = sequence.beginning.ahead
        return sequence

    def missing(self, sequence: LiveSequence) -> int:
        """Tokens that passes will have to compute, as things stand; at least 1."""
        beginning = sequence.beginning
        if beginning.is_over or not beginning.may_reuse:
            return sequence.missing
        usable = self._cells.kept.store.usable_tokens(beginning.ids, sequence.slot.salt)
        if beginning.ahead is not None:
            held = len(beginning.ahead.slot.resident)
            usable = max(usable, min(held, beginning.ahead_tokens))
        return max(1, min(sequence.missing, len(sequence.token_ids) - usable))

    def look_ahead(self, sequence: LiveSequence) -> None:
        """Let a prompt wait for the one before it that computes most of the same."""
        if sequence.beginning.may_reuse and self._can_rewind:
            before = takewhile(lambda other: other is not sequence, self._live.values())
            sequence.beginning.look_ahead(sequence.slot, before)

    def note_removed(self, sequence: LiveSequence) -> None:
        """A sequence is gone: those that waited for it wait for another one, or for nobody."""
        for other in self._live.values():
            if other.leader is None and other.beginning.ahead is sequence:
                self.look_ahead(other)

    def begin(self, sequence: LiveSequence) -> bool:
        """Before a prompt's first pass: take what is there by now.

        Returns:
            Whether it can go on; not while it is being read from disk, a moment in every step.
        """
        beginning = sequence.beginning
        if beginning.is_over:
            return True
        if beginning.may_reuse:
            if not self._recall(sequence.slot, beginning):
                return False
            self._cells.resume(sequence.slot, beginning.ids)
        beginning.is_over = True
        if beginning.skipped_tokens is None:
            beginning.skipped_tokens = len(sequence.slot.resident)
        return True

    def limit(self, sequence: LiveSequence) -> int:
        """Tokens up to where its next pass has to end, to be of use to others.

        The last token is left for a row of its own: kernels round by the rows of a pass, and what
        was there already must not show in the answer.
        """
        most = max(1, sequence.missing - 1)
        if not self._keeps_ends:
            return most
        position = len(sequence.slot.resident)
        return min(most, sequence.beginning.next_stop(position) - position)

    def note_computed(self, sequence: LiveSequence, tokens: int) -> None:
        """A pass computed so much of a sequence: keep it if that is the only chance."""
        slot, start = sequence.slot, len(sequence.slot.resident)
        slot.resident.extend(sequence.token_ids[start : start + tokens])
        is_prompt = self._keeps_ends and not sequence.delivered
        if is_prompt and len(slot.resident) in sequence.beginning.stops:
            self._cells.save(slot)

    def put_off(self, sequence: LiveSequence) -> None:
        """Take a sequence's cells; it comes back to what it had when there is room again."""
        self._cells.save(sequence.slot)  # all of it: computing it again takes longer
        self._cells.empty(sequence.slot, sequence.slot.salt)
        before = sequence.beginning
        sequence.beginning = Beginning(
            make_key(sequence.token_ids),
            may_reuse=sequence.prompt_logprobs is None,
            skipped_tokens=before.skipped_tokens,
            is_looked_up=before.is_looked_up,
        )

    def _recall(self, slot: Slot, beginning: Beginning) -> bool:
        """Read on from disk, if that pays; whether there is nothing more to read."""
        disk = self._cells.kept.disk
        if disk is None:
            return True
        if not beginning.is_looked_up:
            beginning.is_looked_up = True
            held = len(slot.resident)
            beginning.recall = disk.look_up(beginning.ids, slot.salt, beyond=held)
        if beginning.recall is not None and beginning.recall.read(perf_counter() + READ_S):
            beginning.recall = None
        return beginning.recall is None

    def _has_cells_for(self, sequence: LiveSequence, able: list[LiveSequence]) -> bool:
        """Whether a prompt may begin."""
        running = [other for other in able if other.slot.resident]
        if not running:
            return True
        held = sum(len(other.token_ids) for other in running)
        headroom = HEADROOM_TOKENS * (len(running) + 1)
        return held + len(sequence.token_ids) + headroom <= self._cell_count
