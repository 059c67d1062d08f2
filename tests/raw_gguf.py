"""GGUF files byte by byte, for tests of headers that no writer would write."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

UINT16, UINT32, BOOL, STRING, ARRAY, UINT64 = 2, 4, 7, 8, 9, 10
F32, Q8_0 = 0, 8


def string(text: str) -> bytes:
    """A string as the format has it."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


Plain = str | int | bool


def entry(key: str, value: bytes | Plain, kind: int | None = None) -> bytes:
    """A key and its value; bytes stand for themselves and need the `kind`."""
    if isinstance(value, bytes):
        assert kind is not None
        return string(key) + struct.pack("<I", kind) + value
    if isinstance(value, str):
        return string(key) + struct.pack("<I", STRING) + string(value)
    if isinstance(value, bool):
        return string(key) + struct.pack("<I?", BOOL, value)
    return string(key) + struct.pack("<II", UINT32, value)


def array(kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    """The value of an array; `count` is what it says of its length."""
    return struct.pack("<IQ", kind, len(items) if count is None else count) + b"".join(items)


def tensor(name: str, shape: Sequence[int], type_id: int = F32, offset: int = 0) -> bytes:
    """A tensor's entry in the header."""
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return (
        string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", type_id, offset)
    )


@dataclass(frozen=True)
class RawGguf:
    """A file of these entries; the defaults are a whole model of one tensor with 8 values."""

    entries: tuple[bytes, ...] = (entry("general.architecture", "llama"),)
    tensors: tuple[bytes, ...] = (tensor("token_embd.weight", (8,)),)
    data_bytes: int = 32
    version: int = 3
    magic: bytes = b"GGUF"
    order: str = "<"
    counts: tuple[int | None, int | None] = (None, None)

    def with_entries(self, *entries: bytes) -> "RawGguf":
        """With more entries."""
        return replace(self, entries=self.entries + entries)

    def with_values(self, values: dict[str, Plain]) -> "RawGguf":
        """With more entries of plain values."""
        return self.with_entries(*(entry(key, value) for key, value in values.items()))

    def header(self) -> bytes:
        """The header without padding."""
        tensor_count, key_count = self.counts
        start = struct.pack(
            f"{self.order}IQQ",
            self.version,
            len(self.tensors) if tensor_count is None else tensor_count,
            len(self.entries) if key_count is None else key_count,
        )
        return self.magic + start + b"".join(self.entries) + b"".join(self.tensors)

    def file(self) -> bytes:
        """The whole file."""
        header = self.header()
        return header + bytes(-len(header) % 32 + self.data_bytes)

    def write(self, path: Path) -> Path:
        """Write the whole file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.file())
        return path


def write_split(directory: Path, stem: str, count: int) -> list[Path]:
    """A model in `count` parts: metadata and 8 values in the first, 8 values in each other."""
    paths = []
    for index in range(count):
        entries: tuple[bytes, ...] = (entry("split.no", index), entry("split.count", count))
        if index == 0:
            entries += RawGguf().entries
        part = RawGguf(entries=entries, tensors=(tensor(f"blk.{index}.weight", (8,)),))
        paths.append(part.write(directory / f"{stem}-{index + 1:05}-of-{count:05}.gguf"))
    return paths
