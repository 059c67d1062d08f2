"""Finds fixed strings in a stream of text, whatever way the text was cut.

Stateless: the reader keeps the text and asks. No marker of one finder may contain another one
other than as its beginning; then the marker that is complete first is also the leftmost one.
"""

import re
from collections.abc import Collection
from functools import lru_cache

_NOTHING = re.compile(r"(?!)")


class MarkerFinder:
    """Looks for a few fixed strings.

    Args:
        markers: Non-empty strings; may be none at all.
    """

    def __init__(self, markers: Collection[str]) -> None:
        self._markers = tuple(sorted(markers, key=len))
        self._longest = len(self._markers[-1]) if self._markers else 0
        self._any: re.Pattern[str] = _NOTHING
        self._first: re.Pattern[str] = _NOTHING
        if self._markers:
            self._any = re.compile("|".join(re.escape(marker) for marker in self._markers))
            firsts = sorted({marker[0] for marker in self._markers})
            self._first = re.compile("|".join(re.escape(first) for first in firsts))

    def is_clear(self, text: str) -> bool:
        """Whether no marker can begin anywhere in the text."""
        return self._first.search(text) is None

    def find(self, text: str) -> tuple[int, str] | None:
        """The first complete marker and where it begins."""
        found = self._any.search(text)
        return None if found is None else (found.start(), found.group())

    def open_tail(self, text: str) -> int:
        """Length of the longest tail that could still become a marker; 0 if there is none."""
        at = max(0, len(text) - self._longest + 1)
        while (first := self._first.search(text, at)) is not None:
            at = first.start()
            tail = text[at:]
            if any(marker.startswith(tail) for marker in self._markers):
                return len(tail)
            at += 1
        return 0


@lru_cache(maxsize=256)
def finder_for(markers: tuple[str, ...]) -> MarkerFinder:
    """A shared finder: dialects are few and requests are many."""
    return MarkerFinder(markers)
