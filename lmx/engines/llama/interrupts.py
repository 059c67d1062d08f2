"""Ending a pass early for prompts that nobody waits for any more. Knows sequence numbers only.

Written by the engine thread around each pass and by whoever cancels, from any thread; every access
is one operation on a set or an attribute.
"""

from collections.abc import Iterable


class Interrupts:
    """Who waits for which prompt of the running pass, and who of them is about to be removed."""

    def __init__(self) -> None:
        self._waiting: tuple[frozenset[int], ...] = ()
        self._unwanted: set[int] = set()

    @property
    def is_pass_unwanted(self) -> bool:
        """The running pass computes a prompt that nobody waits for any more."""
        return any(group <= self._unwanted for group in self._waiting)

    def begin(self, waiting: Iterable[frozenset[int]]) -> None:
        """A pass begins: for each of its prompts, who waits for it."""
        self._waiting = tuple(waiting)

    def end(self) -> None:
        """The pass is over."""
        self._waiting = ()

    def add(self, sequence_id: int) -> None:
        """It is about to be removed. From any thread."""
        self._unwanted.add(sequence_id)

    def discard(self, sequence_id: int) -> None:
        """It was removed."""
        self._unwanted.discard(sequence_id)
