"""Token ids of one sequence to text deltas: detokenise, then cut at stop strings.

Stop strings are matched here, in the worker, because a stop must end decoding at once. Reasoning
and tool syntax are not known here; the daemon parses them out of the text.
"""

from collections.abc import Sequence

from lmx.engines.base import Detokenizer
from lmx.text.stops import StopMatcher


class SequenceOutput:
    """What one sequence has said so far."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopMatcher(stop)
        self._has_stops = bool(stop)

    @property
    def met_stop(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._stops.met

    def feed(self, token_id: int | None, *, is_last: bool = False) -> tuple[str, bool]:
        """Add a sampled token.

        Args:
            token_id: The id, or `None` for an end id, which has no text.
            is_last: The engine has ended the sequence with this token.

        Returns:
            Text that is final now, and whether a stop string was met.
        """
        text = "" if token_id is None else self._detokenizer.feed(token_id)
        if is_last:
            text += self._detokenizer.flush()
        if not self._has_stops:
            return text, False
        shown, is_stopped = self._stops.feed(text)
        if is_last and not is_stopped:
            shown += self._stops.flush()
        return shown, is_stopped
