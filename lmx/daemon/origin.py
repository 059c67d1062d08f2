"""Where a request comes from, for the books and for whoever watches. Plain values.

The dispatcher is told by its caller and believes it: nothing is decided by any of this.
"""

from msgspec import Struct


class Origin(Struct, frozen=True):
    """A request's sender.

    Attributes:
        request_id: As the client reads it in ``x-request-id``. Several replies may share one.
        client: Who sent it: what the client calls itself, or its address.
        route: The path it came by.
        received_s: When it came, on Trio's clock; `None` for when its reply is opened.
    """

    request_id: str = ""
    client: str = ""
    route: str = ""
    received_s: float | None = None
