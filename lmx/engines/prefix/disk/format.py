"""The bytes of one file: a header with its own digest, then the arrays, each with a checksum.

    magic (8) | header length (4) | SHA-256 of the header (32) | header, msgpack | zeros to 64
    array | zeros to 64 | array | zeros to 64 ...

Every byte is covered: a change anywhere is `Damaged`. It opens no file. Without a read of the
header nothing in the file is believed, and nothing is decoded before its digest was right. Arrays
are large, so theirs is XXH3 with 128 bits, ten times as fast: it finds damage, as it has to, and
forgers, who could write the header as well, are kept out by the files' permissions.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec
import xxhash

from lmx.engines.prefix.disk.digests import FORMAT_VERSION
from lmx.engines.prefix.disk.records import Array, Buffer, StoredRecord

_MAGIC = b"LMXKV" + FORMAT_VERSION.to_bytes(3, "little")
_LENGTH = slice(8, 12)
_DIGEST = slice(12, 44)
_HEADER_AT = 44
# A cache line; wide enough for every element type an engine maps onto the buffer.
_ALIGNMENT_BYTES = 64


class Damaged(Exception):
    """The file is not whole, or not what it was looked up for."""


class Identity(msgspec.Struct, frozen=True):
    """What a file says it is, and what a reader must find there.

    Args:
        namespace: The digest of it.
        salt: The digest of it.
        start_digest: Of all tokens before `start`.
        end_digest: Of all tokens before `end`.
        ids: The tokens `start` to `end`, four bytes each.
    """

    namespace: str
    salt: bytes
    start_digest: str
    end_digest: str
    start: int
    end: int
    ids: bytes


class _Piece(msgspec.Struct, frozen=True, array_like=True):
    """Where an array lies. The checksum covers the zeros behind it."""

    name: str
    is_snapshot: bool
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the end of the padded header
    size_bytes: int
    checksum: bytes


class _Header(msgspec.Struct, frozen=True):
    identity: Identity
    pieces: list[_Piece]


_DECODER = msgspec.msgpack.Decoder(_Header)


def encode_record(
    identity: Identity, arrays: Mapping[str, Array], snapshot: Mapping[str, Array]
) -> list[Buffer]:
    """The file as a list of buffers, the arrays' own among them, uncopied."""
    pieces: list[_Piece] = []
    body: list[Buffer] = []
    offset = 0
    for is_snapshot, name, array in _every(arrays, snapshot):
        data = _flat(array.data)
        zeros = bytes(-len(data) % _ALIGNMENT_BYTES)
        checksum = _checksum(data, zeros)
        pieces.append(
            _Piece(name, is_snapshot, array.dtype, array.shape, offset, len(data), checksum)
        )
        body += [data, zeros]
        offset += len(data) + len(zeros)
    header = msgspec.msgpack.encode(_Header(identity, pieces))
    head = _MAGIC + len(header).to_bytes(4, "little") + _digest(header) + header
    return [head + bytes(-len(head) % _ALIGNMENT_BYTES), *body]


def decode_record(data: Buffer, expected: Identity) -> StoredRecord:
    """The record in a whole file.

    Raises:
        Damaged: Something is not as it was written, or it is another record than expected.
    """
    view = memoryview(data)
    header, body = _decode_header(view)
    if header.identity != expected:
        raise Damaged("it holds another prompt, model or version than its name says")
    found: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    covered = 0
    for piece in header.pieces:
        if piece.offset != covered:
            raise Damaged("its arrays do not lie one behind the other")
        covered += piece.size_bytes + -piece.size_bytes % _ALIGNMENT_BYTES
        if _checksum(body[piece.offset : covered]) != piece.checksum:
            raise Damaged("an array has changed")
        content = body[piece.offset : piece.offset + piece.size_bytes]
        found[piece.is_snapshot][piece.name] = Array(piece.dtype, piece.shape, content)
    if covered != len(body):
        raise Damaged("its arrays do not fill it")
    return StoredRecord(expected.start, expected.end, found[0], found[1])


def head_bytes(data: Buffer) -> int:
    """How much of a file has to be read for its header.

    Raises:
        Damaged: It is not a file of this format.
    """
    view = memoryview(data)
    if len(view) < _HEADER_AT or bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise Damaged("it does not begin as a file of this format")
    end = _HEADER_AT + int.from_bytes(view[_LENGTH], "little")
    return end + -end % _ALIGNMENT_BYTES


def decode_identity(data: Buffer) -> Identity:
    """What a file is, from its beginning; the arrays need not be there.

    Raises:
        Damaged: The header is not as it was written.
    """
    return _decode_header(memoryview(data))[0].identity


def _decode_header(view: memoryview) -> tuple[_Header, memoryview]:
    padded = head_bytes(view)
    end = _HEADER_AT + int.from_bytes(view[_LENGTH], "little")
    raw = view[_HEADER_AT:end]
    if padded > len(view) or _digest(raw) != bytes(view[_DIGEST]) or any(view[end:padded]):
        raise Damaged("its header has changed")
    try:
        return _DECODER.decode(raw), view[padded:]
    except msgspec.MsgspecError as error:
        raise Damaged("its header is of another version") from error


def _every(
    arrays: Mapping[str, Array], snapshot: Mapping[str, Array]
) -> Iterator[tuple[bool, str, Array]]:
    for is_snapshot, group in ((False, arrays), (True, snapshot)):
        for name, array in group.items():
            yield is_snapshot, name, array


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    return view.cast("B")


def _digest(data: Buffer) -> bytes:
    return hashlib.sha256(data).digest()


def _checksum(*buffers: Buffer) -> bytes:
    state = xxhash.xxh3_128()
    for buffer in buffers:
        state.update(buffer)
    return state.digest()


def count_bytes(buffers: Iterable[Buffer]) -> int:
    """Bytes of all of them."""
    return sum(len(buffer) for buffer in buffers)
