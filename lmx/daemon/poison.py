"""Requests that end workers: a request that was running at several deaths is refused for a while.

Every request in flight at a death is blamed, since nobody can tell which one did it; whoever is
answered later is cleared. Pure: times come in. It does not know what a request says, only its
fingerprint.
"""

import hashlib
import math
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from lmx.errors import PoisonRequest
from lmx.protocol.messages import Ask, Generate

FINGERPRINT_BYTES = 16
SECONDS_PER_MINUTE = 60


class _Record(Struct, frozen=True):
    """How often a request was blamed, when last, and for which death."""

    deaths: int
    blamed_at_s: float
    last_death: int | None


class PoisonList:
    """Fingerprints of requests under suspicion, the least recently blamed first.

    Args:
        limit: Deaths from which on a request is refused.
        ttl_s: Time since the last death after which it is forgotten.
        max_entries: Most requests remembered; beyond it the least recently blamed are forgotten.
    """

    def __init__(self, *, limit: int = 2, ttl_s: float = 600.0, max_entries: int = 1024) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._records: dict[bytes, _Record] = {}  # ordered by `blamed_at_s`

    def __len__(self) -> int:
        """How many are remembered. At 0 nobody needs to take a fingerprint."""
        return len(self._records)

    def blame(
        self, fingerprints: Iterable[bytes], now_s: float, *, death: int | None = None
    ) -> None:
        """A worker died while these were running. Copies of one request count once per death.

        Args:
            fingerprints: Of the requests that were running.
            now_s: The time now.
            death: A number of this death, such as the process id, when those who were running
                report it one by one; `None` if this call names them all.
        """
        self._forget_old(now_s)
        for fingerprint in dict.fromkeys(fingerprints):
            record = self._records.pop(fingerprint, None) or _Record(0, now_s, None)
            is_known = death is not None and death == record.last_death
            deaths = record.deaths if is_known else record.deaths + 1
            self._records[fingerprint] = _Record(deaths, now_s, death)
        while len(self._records) > self._max_entries:
            del self._records[next(iter(self._records))]

    def absolve(self, fingerprint: bytes) -> None:
        """It was answered, so it ends no workers. Unknown ones are ignored."""
        self._records.pop(fingerprint, None)

    def check(self, fingerprint: bytes, now_s: float) -> None:
        """Let a request pass, or not.

        Raises:
            PoisonRequest: It was running at `limit` deaths or more; ``retry_after_s`` is when it
                will be forgotten.
        """
        self._forget_old(now_s)
        record = self._records.get(fingerprint)
        if record is None or record.deaths < self._limit:
            return
        wait_s = record.blamed_at_s + self._ttl_s - now_s
        raise PoisonRequest(
            f"this request was running each of the {record.deaths} times that the model's process "
            f"died; it is refused for another {_render_wait(wait_s)}",
            retry_after_s=wait_s,
        )

    def _forget_old(self, now_s: float) -> None:
        while self._records:
            fingerprint, record = next(iter(self._records.items()))
            if now_s - record.blamed_at_s < self._ttl_s:
                return
            del self._records[fingerprint]


def fingerprint(ask: Ask) -> bytes:
    """What a request asks for, in 16 bytes, the same each time it is sent.

    Neither its sequence number nor the order of keys in its dictionaries matters, nor whose turn it
    takes.
    """
    if not isinstance(ask, Generate):
        numbers = msgspec.msgpack.encode(msgspec.structs.replace(ask, sequence=0))
        return hashlib.blake2b(numbers, digest_size=FINGERPRINT_BYTES).digest()
    # msgspec orders string keys only; the token ids of a bias are the only others.
    samplings = [
        msgspec.structs.replace(s, logit_bias=dict(sorted(s.logit_bias.items())))
        for s in ask.samplings
    ]
    rest = msgspec.structs.replace(ask, sequence=0, samplings=[], client="", priority=0, salt="")
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    digest.update(msgspec.msgpack.encode(rest, order="deterministic"))
    digest.update(msgspec.msgpack.encode(samplings))
    return digest.digest()


def _render_wait(wait_s: float) -> str:
    if wait_s <= SECONDS_PER_MINUTE:
        return f"{math.ceil(wait_s)} s"
    return f"{math.ceil(wait_s / SECONDS_PER_MINUTE)} min"
