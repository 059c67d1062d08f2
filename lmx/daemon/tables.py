"""A table of counters by name that never grows past its limit and never loses a count. Pure.

Names come from outside: models that come and go, clients that call themselves what they like. What
has not been used for longest is folded into one entry for all others, so that sums stay true.
"""

from collections.abc import Callable, ItemsView, ValuesView
from typing import Any, Generic, Protocol, TypeVar

OTHERS = "(other)"


class Foldable(Protocol):
    """Counters that can be added up."""

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody is about to count something here."""
        ...

    def add(self, other: Any, /) -> None:
        """Take over everything counted there."""
        ...


T = TypeVar("T", bound=Foldable)


class FoldingTable(Generic[T]):
    """Counters by name.

    Args:
        make: Fresh counters.
        limit: Names shown at most, beside the one for all others.
    """

    def __init__(self, make: Callable[[], T], *, limit: int) -> None:
        self._make = make
        self._limit = limit
        self._entries: dict[str, T] = {}  # the last used one last

    def of(self, name: str) -> T:
        """The counters of this name, which become the last used."""
        entry = self._entries.pop(name, None)
        if entry is None:
            entry = self._make()
            self._fold()
        self._entries[name] = entry
        return entry

    def items(self) -> ItemsView[str, T]:
        """All names with their counters."""
        return self._entries.items()

    def values(self) -> ValuesView[T]:
        """The counters of all names."""
        return self._entries.values()

    def _fold(self) -> None:
        """Make room for one more name; without any that is at rest, the table grows."""
        if len(self._entries) - (OTHERS in self._entries) < self._limit:
            return
        resting = (n for n, entry in self._entries.items() if n != OTHERS and entry.is_at_rest)
        if (name := next(resting, None)) is not None:
            gone = self._entries.pop(name)
            self._entries.setdefault(OTHERS, self._make()).add(gone)
