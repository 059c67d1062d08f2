"""Downloads that wait for somebody to say yes: a token stands for each, for ten minutes.

A token that was confirmed stays good for its time and leads to the same download, because clients
repeat requests whose answers they lost. Touches nothing but memory.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from lmx.errors import TokenExpired, TokenNotFound

T = TypeVar("T")

VALID_S = 600.0
# How long a token is remembered as one that has expired.
REMEMBERED_S = 3600.0
MOST = 1000


class Offers(Generic[T]):
    """What was offered.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offers: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def make(self, offer: T) -> str:
        """A new token for an offer."""
        token = secrets.token_urlsafe(24)
        self._offers[token] = self._clock(), offer
        while len(self._offers) > MOST or self._age_s(next(iter(self._offers))) > REMEMBERED_S:
            self._offers.popitem(last=False)
        return token

    def take(self, token: str) -> T:
        """What a token stands for.

        Raises:
            TokenNotFound: It was never given out, or is long forgotten.
            TokenExpired: It was given out more than `VALID_S` ago.
        """
        if token not in self._offers:
            raise TokenNotFound("there is no such token", param="confirmation_token")
        if self._age_s(token) > VALID_S:
            raise TokenExpired(
                f"the token was good for {VALID_S:.0f} s; ask for the model again",
                param="confirmation_token",
            )
        return self._offers[token][1]

    def _age_s(self, token: str) -> float:
        return self._clock() - self._offers[token][0]
