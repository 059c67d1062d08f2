"""What the API's description says of one route. Plain values."""

from collections.abc import Mapping

from msgspec import Struct

from lmx.errors import BodyTimeout, BodyTooLarge, InvalidRequest, LmxError

Errors = tuple[type[LmxError], ...]
BODY_ERRORS: Errors = (InvalidRequest, BodyTooLarge, BodyTimeout)


class Route(Struct, frozen=True):
    """One operation.

    Attributes:
        method: In lower case.
        path: With parameters in braces.
        summary: What it does.
        reply: The answer's type; `None` for text, or for a stream of events alone.
        request: The body's type, if it takes one.
        event: The type of a stream's events, if it can stream.
        errors: What may be answered instead.
        others: Answers that are no errors, by their status.
        query: The type of the query string, if it reads one.
        is_list: The answer is an array of `reply`.
        needs_body: An empty body is refused.
        text_type: The answer's media type where it is text.
        headers: Request headers that have an effect of their own, and what they say.
    """

    method: str
    path: str
    summary: str
    reply: type[Struct] | None
    request: type[Struct] | None = None
    event: type[Struct] | None = None
    errors: Errors = ()
    others: dict[int, type[Struct]] = {}
    query: type[Struct] | None = None
    is_list: bool = False
    needs_body: bool = True
    text_type: str = "text/plain"
    headers: Mapping[str, str] = {}

    @property
    def replies(self) -> list[type[Struct] | None]:
        """The types of all answers that are no errors."""
        return [self.reply, self.event, *self.others.values()]
