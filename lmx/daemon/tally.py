"""What a running request has delivered so far, counted and timed as it comes.

`ChoiceTally.take` runs for every token, on the link's reader: it adds, takes the time once and
files one gap. The clock is an argument; times are seconds on it.
"""

from collections.abc import Callable

from lmx.daemon.measures import ModelMeasures
from lmx.protocol.messages import Delta

Clock = Callable[[], float]


class RequestTally:
    """What the choices of a request share.

    Args:
        measures: Of the model that answers.
        received_s: When the request came.
        clock: Seconds.

    Attributes:
        measures: The same.
        received_s: The same.
        clock: The same.
        started_s: When the last choice had started, once all had.
        first_text_s: When the first text came, once it did.
        ended_s: When the last choice ended, once all have.
        request_id: Whose they are, as the client knows it.
    """

    __slots__ = (
        "clock",
        "ended_s",
        "first_text_s",
        "measures",
        "received_s",
        "request_id",
        "started_s",
    )

    def __init__(self, measures: ModelMeasures, received_s: float, clock: Clock) -> None:
        self.measures = measures
        self.received_s = received_s
        self.clock = clock
        self.started_s: float | None = None
        self.first_text_s: float | None = None
        self.ended_s: float | None = None
        self.request_id = ""

    def begin(self, now_s: float) -> None:
        """A choice's first text has come."""
        if self.first_text_s is None:
            self.first_text_s = now_s
            self.measures.latencies.first_text.observe(now_s - self.received_s)


class ChoiceTally:
    """What one choice has delivered.

    Args:
        request: Whose choice it is.

    Attributes:
        token_count: Tokens so far.
        paced_count: Of these, tokens that came after the first text.
        first_s: When the first text came, once it did.
        last_s: When the last one did.
        transcript: Gets all text, if anybody wants to keep it.
    """

    __slots__ = (
        "_clock",
        "_gaps",
        "_request",
        "_totals",
        "first_s",
        "last_s",
        "paced_count",
        "token_count",
        "transcript",
    )

    def __init__(self, request: RequestTally) -> None:
        self._request = request
        self._clock = request.clock
        self._gaps = request.measures.latencies.between_texts
        self._totals = request.measures.totals
        self.token_count = 0
        self.paced_count = 0
        self.first_s: float | None = None
        self.last_s = 0.0
        self.transcript: list[str] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Since the first text; 0 before the second."""
        paced_s = 0.0 if self.first_s is None else self.last_s - self.first_s
        return self.paced_count / paced_s if paced_s > 0 else 0.0

    @property
    def request_id(self) -> str:
        """Whose choice it is, as the client knows it."""
        return self._request.request_id

    def take(self, delta: Delta) -> None:
        """Count one delivery."""
        count = delta.token_count
        self.token_count += count
        self._totals.generated_tokens += count
        if not delta.text:
            return  # log-probabilities alone: the client sees no text yet
        if self.transcript is not None:
            self.transcript.append(delta.text)
        now_s = self._clock()
        if self.first_s is None:
            self.first_s = now_s
            self._request.begin(now_s)
        else:
            self.paced_count += count
            self._gaps.observe(now_s - self.last_s)
        self.last_s = now_s
