"""Token ids of one sequence to text deltas: detokenise, then cut at stop strings.

Stop strings are matched here, in the worker, because a stop must end decoding at once. Reasoning
and tool syntax are not known here; the daemon parses them out of the text.
"""

from collections.abc import Sequence

from lmx.engines.base import Detokenizer, EngineFinish
from lmx.text.stops import StopMatcher


class SequenceOutput:
    """What one sequence has said so far."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopMatcher(stop)
        self._has_stops = bool(stop)

    def feed(self, token_id: int, finish: EngineFinish | None) -> tuple[str, bool]:
        """Add a sampled token.

        Args:
            token_id: The id. With ``finish == "stop"`` it is an end id and has no text.
            finish: The engine's verdict on this token.

        Returns:
            Text that is final now, and whether a stop string was met.
        """
        text = "" if finish == "stop" else self._detokenizer.feed(token_id)
        if finish is not None:
            text += self._detokenizer.flush()
        if not self._has_stops:
            return text, False
        shown, is_stopped = self._stops.feed(text)
        if finish is not None and not is_stopped:
            shown += self._stops.flush()
        return shown, is_stopped
