"""Keys: what a request shows, whether it is right, and who shows too many wrong ones. Pure.

Keys are compared as digests and in constant time, every one of them, so that no timing tells how
far or how long a guess was right. Nothing here can be printed.
"""

import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote_to_bytes

WINDOW_S = 60.0
MOST_ADDRESSES = 4096
BEARER = b"bearer"
NAME_BYTES = 16


class KeyRing:
    """Keys of one kind.

    Args:
        keys: As they are configured.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opens(self, shown: Iterable[bytes]) -> bool:
        """Whether one of these keys is among those shown."""
        is_right = False
        for candidate in map(_digest, shown):
            for digest in self._digests:
                is_right |= hmac.compare_digest(candidate, digest)
        return is_right


class WrongKeys:
    """Counts wrong keys per address, in windows that begin with the first one.

    Of too many addresses the ones that were quiet longest are forgotten.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # start, count

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, address: str) -> None:
        """Count one wrong key."""
        start_s, count = self._windows.get(address, (0.0, 0))
        now_s = self._clock()
        if not count or now_s - start_s >= WINDOW_S:
            start_s, count = now_s, 0
        self._windows[address] = start_s, count + 1
        self._windows.move_to_end(address)
        if len(self._windows) > MOST_ADDRESSES:
            self._windows.popitem(last=False)

    def wait_s(self, address: str, limit: int) -> float:
        """How long an address has to wait; 0 if it need not.

        Args:
            address: Of the client.
            limit: Wrong keys in a window after which it has to; 0 for no end.
        """
        start_s, count = self._windows.get(address, (0.0, 0))
        if not limit or count < limit:
            return 0.0
        return max(0.0, math.ceil(start_s + WINDOW_S - self._clock()))


def bearer_key(header: bytes) -> bytes | None:
    """The key in an `Authorization` header, if it is a bearer's."""
    scheme, _, key = header.strip().partition(b" ")
    return key.strip() if scheme.lower() == BEARER and key.strip() else None


def query_keys(query: bytes, names: Sequence[bytes]) -> list[bytes]:
    """The values that a query string has under these names, decoded."""
    pairs = (pair.partition(b"=") for pair in query.split(b"&"))
    values = (value for name, _, value in pairs if name in names and value)
    return [unquote_to_bytes(value.replace(b"+", b" ")) for value in values]


def name_key(key: bytes) -> str:
    """A name for a key that does not tell it, nor the digest it is compared by."""
    return hashlib.blake2b(key, digest_size=NAME_BYTES, person=b"lmx name").hexdigest()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
