"""The file of a record: what is written comes back, and any change at all is noticed."""

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from lmx.engines.prefix.disk.format import (
    Damaged,
    Identity,
    count_bytes,
    decode_record,
    encode_record,
)
from lmx.engines.prefix.disk.records import Array
from tests.prefix_records import content, record

IDENTITY = Identity("namespace", b"salt", "before", "after", 3, 5, b"12345678")


def arrays() -> st.SearchStrategy[dict[str, Array]]:
    """Any number of arrays; the bytes need not be what type and shape say."""
    one = st.builds(
        Array,
        st.text(max_size=8),
        st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
        st.binary(max_size=200),
    )
    return st.dictionaries(st.text(max_size=8), one, max_size=4)


def encoded(identity: Identity = IDENTITY) -> bytes:
    """One file."""
    written = record([1, 2, 3], has_snapshot=True, size_bytes=100)
    return b"".join(encode_record(identity, written.arrays, written.snapshot))


@given(arrays(), arrays())
def test_round_trip(of_tokens: dict[str, Array], at_end: dict[str, Array]) -> None:
    """Names, types, shapes and bytes come back as they were, and the size was known before."""
    buffers = encode_record(IDENTITY, of_tokens, at_end)
    data = b"".join(buffers)
    assert len(data) == count_bytes(buffers)

    def plain(group: dict[str, Array]) -> object:
        return {name: (a.dtype, a.shape, bytes(a.data)) for name, a in group.items()}

    found = decode_record(data, IDENTITY)
    assert (3, 5) == (found.start, found.end)
    assert plain(of_tokens) == plain(dict(found.arrays))
    assert plain(at_end) == plain(dict(found.snapshot))


def test_wide_arrays_are_written_whole() -> None:
    """A view of two axes of four-byte numbers counts in bytes, not in numbers."""
    wide = memoryview(bytearray(range(48))).cast("I").cast("B").cast("I", (3, 4))
    data = b"".join(encode_record(IDENTITY, {"wide": Array("uint32", (3, 4), wide)}, {}))
    assert bytes(range(48)) == bytes(decode_record(data, IDENTITY).arrays["wide"].data)


def test_arrays_are_aligned() -> None:
    """Each array lies at a multiple of 64 bytes of the file."""
    first, second = Array("int8", (3,), b"AAA"), Array("int8", (3,), b"BBB")
    data = b"".join(encode_record(IDENTITY, {"a": first, "b": second}, {}))
    assert 0 == data.index(b"AAA") % 64
    assert 0 == data.index(b"BBB") % 64


def test_torn_anywhere_is_damaged() -> None:
    """A file that ends early, at whichever byte, is refused."""
    data = encoded()
    for length in range(len(data)):
        with pytest.raises(Damaged):
            decode_record(data[:length], IDENTITY)


def test_zeros_in_place_of_the_end_are_damaged() -> None:
    """A file whose last blocks were never written, as after a power failure, is refused."""
    data = encoded()
    for length in range(len(data) - 64):
        with pytest.raises(Damaged):
            decode_record(data[:length] + bytes(len(data) - length), IDENTITY)


def test_every_flipped_bit_is_damaged() -> None:
    """No bit of the file can change unnoticed: not in the header, the arrays or between them."""
    data = bytearray(encoded())
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(Damaged):
                decode_record(data, IDENTITY)
            data[position] ^= 1 << bit
    assert decode_record(data, IDENTITY)


def test_longer_is_damaged() -> None:
    """A file with something behind its last array is refused."""
    for tail in (b"\0", bytes(64), encoded()):
        with pytest.raises(Damaged):
            decode_record(encoded() + tail, IDENTITY)


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "another"},
        {"salt": b"another"},
        {"start_digest": "another"},
        {"end_digest": "another"},
        {"start": 4},
        {"end": 6},
        {"ids": b"12345679"},
    ],
)
def test_another_record_is_damaged(other: dict[str, object]) -> None:
    """A whole file under a name that is not its own is refused, whatever differs."""
    with pytest.raises(Damaged, match="another prompt"):
        decode_record(encoded(), msgspec.structs.replace(IDENTITY, **other))


def test_content_tells_records_apart() -> None:
    """The comparison these tests rest on sees a byte that differs."""
    assert content(record([1, 2])) != content(record([1, 3]))
    assert content(record([1, 2])) == content(record([1, 2]))
