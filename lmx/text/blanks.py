"""Holds trailing spaces and tabs back, so that no delta ends in one.

Clients exist that strip each delta's trailing blanks: ``"Hello "`` + ``"world"`` would print
``Helloworld`` and indentation would die. A blank moves to the front of the next delta; blanks at
the very end of an answer are dropped, streamed or not: no delta is left to carry them.
"""

BLANKS = " \t"


class BlankHolder:
    """Feed deltas, get deltas that end in no space or tab."""

    def __init__(self) -> None:
        self._held = ""  # only spaces and tabs

    def feed(self, text: str) -> str:
        """The delta to show now; may be empty."""
        text = self._held + text
        shown = text.rstrip(BLANKS)
        self._held = text[len(shown) :]
        return shown
