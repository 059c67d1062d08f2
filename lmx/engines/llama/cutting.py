"""Long texts in parts that llama.cpp tokenises one by one. Knows texts, not ids.

llama.cpp takes a whole prompt at once, and any client could reach three limits of how it does. It
keeps the parts between special tokens in a linked list that it walks from the start at each of
them: 100,000 take half a minute. It runs some vocabularies' rules through `std::regex`, which
recurses once per character: a run of 40,000 equal signs overflows the stack and ends the process.
And SentencePiece vocabularies copy all ids so far at each character that has no token: 400,000 line
breaks take 20 seconds.
So texts are cut, first where it changes no token, at special tokens; then, where there are none for
long, in places that change at most one token in thousands.
Source: llama.cpp of llama-cpp-python 0.3.36, `tokenizer_st_partition` and `resegment` in
llama-vocab.cpp, `unicode_regex_split_stl` in unicode.cpp.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

# 20,000 characters are known to fit an 8 MiB stack.
MAX_RUN = 4096
MIN_PART = 4096
# Costs 30 ms if no character has a token.
MAX_PART = 16_384
RUN = re.compile(r"\S+|\s+")

Kind = Literal["rules", "pieces", "other"]


class Part(NamedTuple):
    """A part of a text.

    Attributes:
        text: Never empty.
        is_inside: The text goes on from the part before, without a special token between them.
    """

    text: str
    is_inside: bool = False


class TextCutter:
    """Cuts texts for one vocabulary.

    Args:
        marks: Texts of the tokens that are recognised in a prompt as such.
        stripping: Those of them that swallow white space before them.
        kind: How the vocabulary splits the text between them: by regular expressions and then
            merging, into pieces as SentencePiece does, or in ways that bear any text.
    """

    def __init__(
        self, marks: Collection[str], *, stripping: Collection[str] = (), kind: Kind
    ) -> None:
        self._marks = frozenset(marks)
        self._stripping = frozenset(stripping)
        ends: dict[Kind, Callable[[str], Iterator[int]]] = {
            "rules": self._ends_of_runs,
            "pieces": self._ends_of_pieces,
        }
        self._inner_ends = ends.get(kind)
        self._lengths = sorted({len(mark) for mark in self._marks}, reverse=True)
        firsts = "".join(sorted({mark[0] for mark in self._marks}))
        self._first = re.compile(f"[{re.escape(firsts)}]") if firsts else None

    def cut(self, text: str) -> Iterator[Part]:
        """The text in parts; a short text in one, an empty one in none."""
        for section in _split(text, self._ends_of_sections(text)):
            if self._inner_ends is None:
                yield Part(section)
                continue
            for number, part in enumerate(_split(section, self._inner_ends(section))):
                yield Part(part, is_inside=number > 0)

    def _ends_of_sections(self, text: str) -> Iterator[int]:
        """Where to cut such that each section gives the tokens it gives within the whole."""
        end = 0
        while end + MIN_PART < len(text):
            found = self._find_mark(text, end + MIN_PART)
            if found is None:
                return
            end = found
            yield end

    def _find_mark(self, text: str, start: int) -> int | None:
        """Where from `start` on a special token begins that no other one can take a part of.

        It is recognised whatever stands around it, so it parts the text before it from the rest.
        """
        if self._first is None:
            return None
        for match in self._first.finditer(text, start):
            position = match.start()
            mark = self._longest_at(text, position)
            if mark is None or mark in self._stripping:
                continue
            edges = (position, position + len(mark))
            if all(self._straddling(text, edge) is None for edge in edges):
                return position
        return None

    def _longest_at(self, text: str, position: int) -> str | None:
        slices = (text[position : position + length] for length in self._lengths)
        return next((mark for mark in slices if mark in self._marks), None)

    def _straddling(self, text: str, position: int) -> int | None:
        """Where a special token begins that stands on both sides of a position."""
        longest = self._lengths[0] if self._lengths else 0
        for start in range(max(0, position - longest + 1), position):
            for length in self._lengths:
                if start + length <= position:
                    break
                if text[start : start + length] in self._marks:
                    return start
        return None

    def _outside_marks(self, text: str, position: int) -> int:
        """The position, or else the last one before it that is inside no special token."""
        while (start := self._straddling(text, position)) is not None:
            position = start
        return position

    def _ends_of_runs(self, text: str) -> Iterator[int]:
        """Inside runs, with or without white space, that are far longer than any word."""
        for run in RUN.finditer(text) if len(text) > MAX_RUN else ():
            end = run.start()
            while run.end() - end > MAX_RUN:
                previous, end = end, self._outside_marks(text, end + MAX_RUN)
                if end <= previous:  # nothing but special tokens, which no rule sees
                    break
                yield end

    def _ends_of_pieces(self, text: str) -> Iterator[int]:
        """Before a word, which no piece reaches across, as long as there are words."""
        end = 0
        while len(text) - end > MAX_PART:
            latest = end + MAX_PART
            space = text.rfind(" ", end + MIN_PART, latest)
            while space > end and text[space - 1] == " ":
                space -= 1
            previous, end = end, self._outside_marks(text, space if space > end else latest)
            if end <= previous:
                return
            yield end


def _split(text: str, ends: Iterator[int]) -> Iterator[str]:
    start = 0
    for end in ends:
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
