"""GGUF files on disk: reading heads of files, the parts of split ones, choosing among several.

Reads files, so it runs off the event loop. Never a tensor: the head of a file is a few megabytes of
what may be hundreds of gigabytes. It reads and does not map, because a mapped file that somebody
cuts short kills the process.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from lmx.catalog.gguf_header import GgufHeader, NeedMore, merge_parts, read_header
from lmx.catalog.gguf_names import Split, choose_file, parse_split, parse_variant
from lmx.errors import CorruptModel, LoadError, UnsupportedModel

# Enough for a header without a vocabulary, little enough to read from a slow disk.
FIRST_READ_BYTES = 256 * 1024


class GgufModel(Struct, frozen=True):
    """A model in one file or several.

    Attributes:
        path: The file, or the first part.
        parts: Every file, in order.
        header: What they say together.
        size_bytes: Length of all files.
    """

    path: Path
    parts: tuple[Path, ...]
    header: GgufHeader
    size_bytes: int


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of one file and check that the file is as long as it says.

    Raises:
        CorruptModel: It cannot be read, is no GGUF file, or is damaged or incomplete.
        UnsupportedModel: It is of a kind of GGUF file that is not known here.
    """
    return _read(path)[0]


def read_model(path: Path) -> GgufModel:
    """Read a model's headers, given its file or any part of it.

    Raises:
        CorruptModel: As `read_gguf`, of any part; or a part is missing or is another's.
        UnsupportedModel: As `read_gguf`; or the file holds no model, but something beside one.
    """
    parts = _parts(path)
    read = [_read_part(part, index, len(parts)) for index, part in enumerate(parts)]
    header = merge_parts([header for header, _ in read])
    if header.purpose == "other":
        raise UnsupportedModel(f"{parts[0]} holds {_other_content(header)} and no model")
    return GgufModel(parts[0], parts, header, sum(size_bytes for _, size_bytes in read))


def choose_gguf(directory: Path, variant: str = "") -> Path | None:
    """The file to load from a directory, or `None` if there is none.

    Looks into folders that are named like a quantisation, too, as publishers of large models keep
    each one in its own.

    Args:
        directory: Where to look; it need not exist.
        variant: The quantisation wanted, as `lmx.catalog.gguf_names.parse_variant` spells it.

    Raises:
        OSError: The system refuses to look.
    """
    files = {str(path.relative_to(directory)): path for path in _files(directory)}
    chosen = choose_file(list(files), variant)
    return None if chosen is None else files[chosen]


def _other_content(header: GgufHeader) -> str:
    if header.kind != "model":
        return f"something of the kind {header.kind[:40]!r}"
    if header.tensor_count == 0:
        return "a vocabulary without tensors"
    return f"a part of the kind {header.architecture[:40]!r}"


def _files(directory: Path) -> Iterator[Path]:
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and parse_variant(path.name):
            yield from (inner for inner in path.iterdir() if inner.is_file())


def _parts(path: Path) -> tuple[Path, ...]:
    """Every file of the model, in order; only the name is looked at."""
    split = parse_split(path.name)
    if split is None:
        return (path,)
    if not 1 <= split.index <= split.count:
        raise CorruptModel(f"{path}: the name says that it is part {split.index} of {split.count}")
    return tuple(_check_part(path, split, index) for index in range(1, split.count + 1))


def _check_part(path: Path, split: Split, index: int) -> Path:
    part = path.with_name(split.part(index))
    if not part.is_file():
        raise CorruptModel(f"{part} is missing: it is part {index} of {split.count}")
    return part


def _read_part(path: Path, index: int, count: int) -> tuple[GgufHeader, int]:
    """A part's header and its size. llama.cpp finds the other parts by the first one's name."""
    header, size_bytes = _read(path)
    if (header.split_index, header.split_count) != (index, count):
        raise CorruptModel(
            f"{path}: by its header it is part {header.split_index + 1} of {header.split_count}, "
            f"by its name part {index + 1} of {count}"
        )
    return header, size_bytes


def _read(path: Path) -> tuple[GgufHeader, int]:
    """The header, and the length of the file."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            data, wanted = bytearray(), FIRST_READ_BYTES
            while True:
                block = file.read(wanted - len(data))
                data += block
                # A file that somebody cuts short meanwhile ends earlier than it said.
                known_bytes = size_bytes if block else len(data)
                try:
                    return read_header(data, known_bytes), size_bytes
                except NeedMore as more:
                    wanted = max(more.bytes_wanted, 2 * len(data))
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error
    except LoadError as error:
        raise type(error)(f"{path}: {error.message}") from error
