"""Digests that name a prefix: of whom, of what model, and of every token up to a position.

The digest of a position covers all tokens before it, so two records with the same digest hold
state of the same prompt, however the prompt was cut into records. SHA-256, because the processors
LMX runs on compute it in hardware, cut to 128 bits to fit two into a file name.
"""

import hashlib
import sys
from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence

import msgspec

from lmx.engines.prefix.disk.records import Namespace

# Of the file's layout. It is part of the namespace: files of another version are foreign, count
# against the cap, and leave only when room is needed.
FORMAT_VERSION = 2

TOKEN_BYTES = 4
_DIGEST_BYTES = 16


def namespace_digest(namespace: Namespace) -> str:
    """The name of the directory that holds this namespace's files."""
    parts = ("lmx prefix", FORMAT_VERSION, namespace.model, namespace.dtype, namespace.library)
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[: 2 * _DIGEST_BYTES]


def salt_digest(salt: bytes) -> bytes:
    """What stands for the salt in a file; the salt itself is never written."""
    return hashlib.sha256(b"lmx salt " + salt).digest()


def token_bytes(token_ids: Sequence[int]) -> bytes:
    """Four bytes a token, little-endian.

    Raises:
        OverflowError: An id is negative or does not fit.
    """
    ids = array("I", token_ids)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


class PrefixDigests:
    """The digests of one prompt's positions, each computed once.

    Args:
        namespace: The namespace's digest.
        salt: The salt's digest.
        ids: The prompt, four bytes a token.

    Attributes:
        namespace: The same.
        salt: The same.
    """

    def __init__(self, namespace: str, salt: bytes, ids: bytes) -> None:
        self.namespace = namespace
        self.salt = salt
        self._ids = memoryview(ids)
        self._states = {0: hashlib.sha256(namespace.encode() + salt)}
        self._positions = [0]  # sorted; the keys of `_states`
        self._digests: dict[int, str] = {}

    @property
    def length_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._ids) // TOKEN_BYTES

    def at(self, position: int) -> str:
        """The digest of the first `position` tokens, in hexadecimal."""
        digest = self._digests.get(position)
        if digest is None:
            digest = self._state(position).hexdigest()[: 2 * _DIGEST_BYTES]
            self._digests[position] = digest
        return digest

    def extended(self, position: int, ids: bytes) -> str:
        """The digest of the first `position` tokens and of others behind them."""
        state = self._state(position).copy()
        state.update(ids)
        return state.hexdigest()[: 2 * _DIGEST_BYTES]

    def segment(self, start: int, end: int) -> bytes:
        """The ids of the tokens `start` to `end`."""
        return bytes(self._ids[start * TOKEN_BYTES : end * TOKEN_BYTES])

    def _state(self, position: int) -> "hashlib._Hash":
        known = self._positions[bisect_right(self._positions, position) - 1]
        if known == position:
            return self._states[known]
        state = self._states[known].copy()
        state.update(self._ids[known * TOKEN_BYTES : position * TOKEN_BYTES])
        self._states[position] = state
        insort(self._positions, position)
        return state
