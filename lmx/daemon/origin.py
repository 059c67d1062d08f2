"""Where a request comes from, for the books, for whoever watches, and for its turn. Plain values.

The dispatcher is told by its caller and believes it.
"""

import msgspec
from msgspec import Struct

from lmx.protocol.messages import Ask, Generate


class Caller(Struct, frozen=True):
    """Who pays for a request with its turn. Unlike a name, a client cannot choose it.

    Attributes:
        client: The digest of the key it showed, else its address.
        salt: The digest of that key, else nothing: prompts of different keys share nothing.
    """

    client: str = ""
    salt: str = ""


NOBODY = Caller()


class Origin(Struct, frozen=True):
    """A request's sender.

    Attributes:
        request_id: As the client reads it in ``x-request-id``. Several replies may share one.
        client: Who sent it: what the client calls itself, or its address.
        route: The path it came by.
        received_s: When it came, on Trio's clock; `None` for when its reply is opened.
        caller: Whose turn it takes.
    """

    request_id: str = ""
    client: str = ""
    route: str = ""
    received_s: float | None = None
    caller: Caller = NOBODY


def sign(ask: Ask, caller: Caller) -> Ask:
    """A request that says whose it is."""
    if not isinstance(ask, Generate):
        return ask
    return msgspec.structs.replace(ask, client=caller.client, salt=caller.salt)
