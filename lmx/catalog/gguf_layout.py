"""The bytes at the head of a GGUF file: typed values by key, and where the tensors are. Sans-IO.

Knows nothing about models. It refuses what llama.cpp's gguf.cpp refuses and what crashes it, so
that a damaged file never reaches a worker; every count is bounded before anything is allocated.

Source: docs/gguf.md of ggml, versions 2 and 3, little-endian.
"""

import struct
from contextlib import suppress
from typing import NamedTuple, NoReturn

from lmx.catalog.gguf_types import TENSOR_TYPES
from lmx.errors import CorruptModel, UnsupportedModel

Value = bool | int | float | str | tuple[int, ...]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far above any model's header: the largest vocabularies in use make 20 MB of it.
MAX_HEADER_BYTES = 256 * 1024 * 1024
# The largest models have some hundred keys and some thousand tensors.
MAX_KEYS = 4096
MAX_TENSORS = 65_536
# All strings in all arrays: ten of today's largest vocabularies with their merges.
MAX_ARRAY_STRINGS = 8_000_000
MAX_KEY_BYTES = 1024  # the format allows 65,535; errors quote keys
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less the final zero
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_VALUES = 2**63 - 1  # llama.cpp counts a tensor's values in an int64
# Longer strings and arrays are stepped over: no key that matters has one.
MAX_STRING_BYTES = 1024 * 1024
MAX_ARRAY_VALUES = 4096
# Everything that is not stepped over; most of a real header's is its chat template.
MAX_KEPT_BYTES = 16 * 1024 * 1024
DEFAULT_ALIGNMENT = 32

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_UINT32, _STRING, _ARRAY = 4, 8, 9
# Value type to its encoding; strings and arrays aside.
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_FRACTIONS = frozenset({6, 12})


class NeedMore(Exception):  # it is a question to the caller and no LmxError
    """The bytes end before the header does.

    Attributes:
        bytes_wanted: How many bytes of the file, from its start, get any further.
    """

    def __init__(self, bytes_wanted: int) -> None:
        super().__init__(f"{bytes_wanted} bytes")
        self.bytes_wanted = bytes_wanted


class Tensor(NamedTuple):
    """One tensor as the header describes it; `offset` counts from the start of the data."""

    name: str
    type_name: str
    values_count: int
    size_bytes: int
    offset: int


class Layout(NamedTuple):
    """A whole header.

    Attributes:
        values: Numbers, short strings and short arrays of integers, by key.
        tensors: In the order of the file.
        header_bytes: Where the header ends; padding and data follow.
        file_bytes: Length of a complete file, the last tensor's padding not counted.
    """

    values: dict[str, Value]
    tensors: list[Tensor]
    header_bytes: int
    file_bytes: int


def read_layout(data: memoryview, file_bytes: int | None = None) -> Layout:
    """Read a header from the first bytes of a file.

    Args:
        data: The file's beginning, of any length.
        file_bytes: Length of the whole file, if it is known; a shorter one than the header
            describes is then refused.

    Raises:
        NeedMore: `data` is too short.
        CorruptModel: It is no GGUF file, or one that is damaged or incomplete.
        UnsupportedModel: It is of a version, byte order or tensor type that is not known here.
    """
    cursor = _Cursor(data, file_bytes)
    _read_magic(cursor)
    tensor_count = cursor.count(MAX_TENSORS, "tensors")
    key_count = cursor.count(MAX_KEYS, "keys")
    values: dict[str, Value] = {}
    alignment = _read_values(cursor, key_count, values)
    tensors = _read_tensors(cursor, tensor_count)
    end = _check_tensors(tensors, alignment)
    header_bytes = cursor.offset
    if tensors:
        end += _padded(header_bytes, alignment)
    total = max(end, header_bytes)
    if file_bytes is not None and file_bytes < total:
        missing = total - file_bytes
        raise CorruptModel(f"the file is {missing} bytes shorter than its header says")
    return Layout(values, tensors, header_bytes, total)


def read_first_values(data: memoryview) -> tuple[dict[str, Value], int]:
    """The values that stand in the first bytes of a file, and how many tensors follow later.

    Raises:
        NeedMore: Not even their numbers are there.
        CorruptModel: As `read_layout`.
        UnsupportedModel: As `read_layout`.
    """
    cursor = _Cursor(data, None)
    _read_magic(cursor)
    tensor_count = cursor.count(MAX_TENSORS, "tensors")
    key_count = cursor.count(MAX_KEYS, "keys")
    values: dict[str, Value] = {}
    with suppress(NeedMore):
        _read_values(cursor, key_count, values)
    return values, tensor_count


class _Cursor:
    """A place in the header that only moves forward, and never past the file's end."""

    def __init__(self, data: memoryview, file_bytes: int | None) -> None:
        self.offset = 0
        self._data = data
        self._file_bytes = file_bytes
        self._strings_left = MAX_ARRAY_STRINGS
        self._kept_left = MAX_KEPT_BYTES

    def number(self, encoding: struct.Struct) -> int | float | bool:
        """One number or truth value."""
        start = self._take(encoding.size)
        value: int | float | bool = encoding.unpack_from(self._data, start)[0]
        return value

    def unsigned(self, encoding: struct.Struct = _U32) -> int:
        """One unsigned integer."""
        return int(self.number(encoding))

    def count(self, most: int, what: str) -> int:
        """How many of something follow, refused above `most`."""
        count = self.unsigned(_U64)
        if count > most:
            raise CorruptModel(
                f"the header says that it has {count} {what}; at most {most} make sense"
            )
        return count

    def take(self, count: int) -> bytes:
        """The next bytes, to be kept."""
        self._kept_left -= count
        if self._kept_left < 0:
            raise CorruptModel("the header has more in it than any model's")
        start = self._take(count)
        return bytes(self._data[start : start + count])

    def string(self, most: int, what: str) -> str:
        """A short string; what is no UTF-8 in it shows as U+FFFD."""
        return self.take(self.count(most, f"bytes in {what}")).decode("utf-8", "replace")

    def text(self) -> str | None:
        """A string of any length; `None` in place of one that is not worth keeping."""
        length = self.unsigned(_U64)
        if length > MAX_STRING_BYTES:
            self._take(length)
            return None
        return self.take(length).decode("utf-8", "replace")

    def integers(self, encoding: struct.Struct, count: int) -> tuple[int, ...]:
        """An array of integers."""
        return tuple(value for (value,) in encoding.iter_unpack(self.take(encoding.size * count)))

    def skip(self, count: int) -> None:
        """Step over bytes."""
        self._take(count)

    def skip_strings(self, count: int) -> None:
        """Step over an array of strings, the only thing whose end must be searched for."""
        if count > self._strings_left:
            raise CorruptModel(f"the header has an array of {count} strings; no vocabulary does")
        self._strings_left -= count
        self._check(self.offset + _U64.size * count)
        read, data, offset = _U64.unpack_from, self._data, self.offset
        last = len(data) - _U64.size
        for _ in range(count):
            if offset > last:
                self._refuse(offset + _U64.size)
            offset += _U64.size + read(data, offset)[0]
        self._check(offset)
        self.offset = offset

    def _take(self, count: int) -> int:
        """Step over bytes and say where they begin."""
        start = self.offset
        self._check(start + count)
        self.offset = start + count
        return start

    def _check(self, end: int) -> None:
        if end > len(self._data):
            self._refuse(end)

    def _refuse(self, end: int) -> NoReturn:
        if self._file_bytes is not None and end > self._file_bytes:
            raise CorruptModel(
                f"the header does not fit into the file: it goes on to byte {end} at least, the "
                f"file has {self._file_bytes}"
            )
        if end > MAX_HEADER_BYTES:
            raise CorruptModel(f"the header is {end} bytes long at least; no model's is")
        raise NeedMore(end)


def _read_magic(cursor: _Cursor) -> None:
    magic = cursor.take(len(MAGIC))
    if magic != MAGIC:
        raise CorruptModel(f"it is no GGUF file: it begins with {magic!r}")
    version = cursor.unsigned()
    if version and not version & 0xFFFF:  # the bytes of a small number, read from the wrong end
        raise UnsupportedModel("the GGUF file is big-endian; only little-endian ones are read")
    if version not in VERSIONS:
        raise UnsupportedModel(f"the GGUF file is of version {version}; 2 and 3 are read")


def _read_values(cursor: _Cursor, count: int, values: dict[str, Value]) -> int:
    """Put the values into `values` by key; returns the alignment of tensors, a power of two."""
    seen: set[str] = set()
    alignment = DEFAULT_ALIGNMENT
    for _ in range(count):
        key = cursor.string(MAX_KEY_BYTES, "a key")
        if key in seen:
            raise CorruptModel(f"the key {key!r} stands twice in the header")
        seen.add(key)
        kind = cursor.unsigned()
        value = _read_array(cursor, key) if kind == _ARRAY else _read_value(cursor, key, kind)
        if value is not None:
            values[key] = value
        if key == "general.alignment":
            alignment = _check_alignment(kind, value)
    return alignment


def _read_value(cursor: _Cursor, key: str, kind: int) -> Value | None:
    """One value; `None` for one that is not worth keeping."""
    if kind == _STRING:
        return cursor.text()
    if kind not in _NUMBERS:
        raise CorruptModel(f"the key {key!r} has a value of the unknown type {kind}")
    return cursor.number(_NUMBERS[kind])


def _read_array(cursor: _Cursor, key: str) -> Value | None:
    """A short array of integers; `None` for any other, which is stepped over."""
    kind, count = cursor.unsigned(), cursor.unsigned(_U64)
    if kind == _STRING:
        cursor.skip_strings(count)
        return None
    if kind not in _NUMBERS:  # llama.cpp reads no arrays of arrays either
        raise CorruptModel(f"the key {key!r} has an array of the unknown type {kind}")
    encoding = _NUMBERS[kind]
    if count <= MAX_ARRAY_VALUES and kind not in _FRACTIONS:
        return cursor.integers(encoding, count)
    cursor.skip(encoding.size * count)
    return None


def _check_alignment(kind: int, value: Value | None) -> int:
    if kind != _UINT32 or not isinstance(value, int) or value.bit_count() != 1:
        raise CorruptModel("general.alignment is not a power of two of 32 bits")
    return value


def _read_tensors(cursor: _Cursor, count: int) -> list[Tensor]:
    tensors: list[Tensor] = []
    seen: set[str] = set()
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in seen:
            raise CorruptModel(f"the tensor {tensor.name!r} stands twice in the header")
        seen.add(tensor.name)
        tensors.append(tensor)
    return tensors


def _read_tensor(cursor: _Cursor) -> Tensor:
    name = cursor.string(MAX_NAME_BYTES, "the name of a tensor")
    dimensions = cursor.unsigned()
    if dimensions > MAX_DIMENSIONS:
        raise CorruptModel(f"the tensor {name!r} has {dimensions} dimensions")
    shape = cursor.integers(_U64, dimensions)
    values_count = 1
    for size in shape:
        values_count *= size
    # An empty dimension makes llama.cpp divide by zero.
    if not 0 < values_count < MAX_VALUES:
        raise CorruptModel(f"the tensor {name!r} has the shape {shape}")
    type_id, offset = cursor.unsigned(), cursor.unsigned(_U64)
    tensor_type = TENSOR_TYPES.get(type_id)
    if tensor_type is None:
        raise UnsupportedModel(f"the tensor {name!r} is of type {type_id}, which is not known here")
    if (shape[0] if shape else 1) % tensor_type.block_values:
        raise CorruptModel(
            f"the tensor {name!r} has rows that are no whole {tensor_type.name} blocks"
        )
    size_bytes = values_count // tensor_type.block_values * tensor_type.block_bytes
    return Tensor(name, tensor_type.name, values_count, size_bytes, offset)


def _check_tensors(tensors: list[Tensor], alignment: int) -> int:
    """Require that the tensors follow one another, and say where the last one ends."""
    expected = end = 0
    for tensor in tensors:
        if tensor.offset != expected:
            raise CorruptModel(
                f"the tensor {tensor.name!r} begins at byte {tensor.offset}, not at {expected}"
            )
        end = expected + tensor.size_bytes
        expected = _padded(end, alignment)
    return end


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment
