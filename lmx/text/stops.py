"""Stop strings across token boundaries: the text before one is released, the stop never is.

Works on text, not on tokens, because a stop string has many tokenisations. Text is held back only
while it could still become the beginning of a stop string.
"""

from collections.abc import Sequence


class StopMatcher:
    """Finds the stop string that is complete first in a stream of text.

    Args:
        stops: Non-empty strings.

    Attributes:
        met: The one that was found, if any.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # non-empty only while it ends in a proper prefix of a stop string
        self.met: str | None = None
        self._longest = max((len(stop) for stop in stops), default=0)

    def feed(self, text: str) -> tuple[str, bool]:
        """Add text.

        Returns:
            What is safe to show, and whether a stop string was met. After a stop everything that
            follows is dropped.
        """
        if not self._stops:
            return text, False
        held = self._held + text
        # The stop that is complete first wins, so that how the text was split changes nothing.
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            end, at = min(found)
            self._held, self.met = "", held[at:end]
            return held[:at], True
        keep = self._open_prefix_length(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """The text still held, when the stream ends without a stop."""
        held, self._held = self._held, ""
        return held

    def _open_prefix_length(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
