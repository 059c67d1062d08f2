"""Finds where a block of tool markup ends, as its text grows. Linear in the length of the block."""

import re
from functools import lru_cache
from typing import NamedTuple

from lmx.text.tools.family import Quotes

_OPENING = frozenset("([{")
_CLOSING = frozenset(")]}")


class Shape(NamedTuple):
    """What ends a block.

    Attributes:
        ends: Markers that end it and belong to it.
        nexts: Markers that end it and belong to what follows.
        quotes: Stretches in which nothing ends it.
        is_balanced: It also ends where its outermost bracket closes.
    """

    ends: tuple[str, ...]
    nexts: tuple[str, ...] = ()
    quotes: Quotes = ()
    is_balanced: bool = False


@lru_cache(maxsize=256)
def _tokens(shape: Shape) -> tuple[re.Pattern[str], tuple[str, ...]]:
    tokens = [*shape.ends, *shape.nexts, *(opening for opening, _ in shape.quotes)]
    if shape.is_balanced:
        tokens += [*_OPENING, *_CLOSING]
    tokens.sort(key=len, reverse=True)
    return re.compile("|".join(re.escape(token) for token in tokens)), tuple(tokens)


@lru_cache(maxsize=256)
def _closing(quote: str) -> re.Pattern[str]:
    escape = r"\\[\s\S]|" if len(quote) == 1 else ""
    return re.compile(escape + re.escape(quote))


class BlockScanner:
    """Finds the end of one block.

    Args:
        shape: What ends it.
        start: Where its body begins.
    """

    __slots__ = ("_at", "_depth", "_pattern", "_quote", "_shape", "_tokens")

    def __init__(self, shape: Shape, start: int) -> None:
        self._shape = shape
        self._at = start  # all before is read, or is the beginning of a token
        self._quote = ""  # what closes the quoted stretch at `_at`; empty outside
        self._depth = 0  # open brackets
        self._pattern, self._tokens = _tokens(shape)

    def find_end(self, text: str, *, is_final: bool = False) -> tuple[int, int] | None:
        """Look on from where the last call stopped.

        Args:
            text: The whole block so far, opening included.
            is_final: Nothing will be added.

        Returns:
            Where the body ends and where the block ends, or None while neither is known.
        """
        while True:
            if self._quote and not self._leave_quote(text):
                return None
            found = self._pattern.search(text, self._at)
            if found is None:
                self._at = max(self._at, len(text) - len(self._tokens[0]) + 1)
                return None
            if not is_final and self._may_grow(text[found.start() :]):
                self._at = found.start()
                return None
            self._at = found.end()
            if (end := self._read(found.group())) is not None:
                return end

    def _may_grow(self, tail: str) -> bool:
        return any(len(token) > len(tail) and token.startswith(tail) for token in self._tokens)

    def _leave_quote(self, text: str) -> bool:
        pattern = _closing(self._quote)
        while (found := pattern.search(text, self._at)) is not None:
            self._at = found.end()
            if found.group() == self._quote:
                self._quote = ""
                return True
        # What is left may end in a backslash or in the beginning of the closing quote.
        self._at = max(self._at, len(text) - max(len(self._quote) - 1, 1))
        return False

    def _read(self, token: str) -> tuple[int, int] | None:
        if token in self._shape.ends:
            return self._at - len(token), self._at
        if token in self._shape.nexts:
            return self._at - len(token), self._at - len(token)
        for opening, closing in self._shape.quotes:
            if token == opening:
                self._quote = closing
                return None
        self._depth += 1 if token in _OPENING else -1
        return (self._at, self._at) if self._depth <= 0 else None
