"""What a list of models needs to know of a GGUF file, without reading its vocabulary.

Reads files, so it runs off the event loop. The vocabulary makes megabytes of a header and tens of
milliseconds of reading it; what a list shows stands before it. Only where something is missing
there, or the file seems too short for its model, is the whole header read.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from lmx.catalog.gguf_header import (
    ENCODERS,
    GgufHeader,
    NeedMore,
    Purpose,
    merge_parts,
    read_beginning,
    read_header,
)
from lmx.catalog.gguf_names import quantisation_of
from lmx.errors import CorruptModel

# Well beyond the keys before the vocabulary of any model, but for one that carries long texts.
GLANCE_BYTES = 16 * 1024
# A file is this much of what its label and its quantisation say, or its whole header is read:
# labels are rounded, and every quantisation takes a little more than the bits in its name.
PLAUSIBLE_SHARE = 0.95
_LABEL = re.compile(r"(\d+(?:\.\d+)?)([KMBT])")
_LABEL_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


class Glance(Struct, frozen=True):
    """What a list shows of a GGUF model.

    Attributes:
        architecture: Such as ``llama``.
        quantisation: Such as ``Q4_K_M``, or empty.
        parameter_count: Exact where the header was read to its end, else as the file's label says.
        context_tokens: Context the model was trained with, or `None`.
        purpose: What it can be asked for; ``other`` is no model.
        short_part: Index of a part that is cut off, or `None`.
    """

    architecture: str
    quantisation: str
    parameter_count: int | None
    context_tokens: int | None
    purpose: Purpose
    short_part: int | None = None


def glance_at(paths: Sequence[str], sizes: Sequence[int]) -> Glance:
    """Look at a model.

    Args:
        paths: Its file, or all parts in order.
        sizes: Their lengths in bytes.

    Raises:
        CorruptModel: It is no GGUF file, or one that is damaged.
        OSError: It cannot be read.
        UnsupportedModel: It is of a kind of GGUF file that is not known here.
    """
    named = quantisation_of(paths[0]).upper()
    looks = [_look(paths[0], sizes[0], partial(_is_enough, named, sum(sizes)))]
    # Later parts have no vocabulary: their headers are short.
    looks += [_look(path, size) for path, size in zip(paths[1:], sizes[1:], strict=True)]
    header, is_whole = looks[0].header, all(look.is_whole for look in looks)
    if is_whole:
        header = merge_parts([look.header for look in looks])
    return Glance(
        architecture=header.architecture,
        quantisation=named or header.quantisation,
        parameter_count=header.parameter_count if is_whole else _label_count(header.size_label),
        context_tokens=header.context_tokens,
        purpose=header.purpose,
        short_part=next((index for index, look in enumerate(looks) if look.is_short), None),
    )


class _Look(NamedTuple):
    """One file: its header, whether that is all of it, and whether the file is cut off."""

    header: GgufHeader
    is_whole: bool
    is_short: bool


def _look(
    path: str, size_bytes: int, is_enough: Callable[[GgufHeader], bool] | None = None
) -> _Look:
    with Path(path).open("rb", buffering=0) as file:
        data = bytearray(file.read(GLANCE_BYTES))
        begun: GgufHeader | None = None
        while True:
            try:
                header = read_header(data)
                return _Look(header, is_whole=True, is_short=header.file_bytes > size_bytes)
            except NeedMore as more:
                wanted = more.bytes_wanted
            begun = begun or _begin(data)
            if begun is not None and is_enough is not None and is_enough(begun):
                return _Look(begun, is_whole=False, is_short=False)
            is_cut_off = wanted > size_bytes
            block = b"" if is_cut_off else file.read(max(wanted, 2 * len(data)) - len(data))
            if not block:
                if begun is None:
                    raise CorruptModel("it is cut off before it says what it is")
                return _Look(begun, is_whole=False, is_short=True)
            data += block


def _begin(data: bytearray) -> GgufHeader | None:
    try:
        return read_beginning(data)
    except NeedMore:
        return None


def _is_enough(named: str, size_bytes: int, header: GgufHeader) -> bool:
    """Whether the rest of the header would tell a list nothing new.

    Only its tensors tell a reranker of the encoders' kind from others, how large a mixture of
    experts is, and whether the file is cut off.
    """
    quantisation = named or header.file_type
    bits = re.search(r"\d+", quantisation)
    parameter_count = _label_count(header.size_label)
    if bits is None or parameter_count is None or header.architecture in ENCODERS:
        return False
    return size_bytes >= PLAUSIBLE_SHARE * parameter_count * int(bits[0]) / 8


def _label_count(label: str) -> int | None:
    """``1.5B`` as a number; `None` for labels of mixtures and for none."""
    found = _LABEL.fullmatch(label)
    return round(float(found[1]) * _LABEL_UNITS[found[2]]) if found else None
