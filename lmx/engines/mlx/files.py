"""What a model directory must hold before anything is read into memory. Needs only the library.

Knows file formats, not models: it finds what is missing or cut off and says so by name, because
MLX itself reads past the end of a truncated file. Source: the safetensors format (8 bytes of
little-endian header length, JSON header, data).
"""

import json
import struct
from pathlib import Path
from typing import Any

from lmx.errors import CorruptModel, UnsupportedModel

WEIGHTS = "model*.safetensors"
HEADER_LENGTH = struct.Struct("<Q")
# The format's own limit.
MAX_HEADER_BYTES = 100_000_000


def check_directory(directory: Path) -> None:
    """Every weight file that should be there is there and whole.

    Raises:
        CorruptModel: Something is missing or truncated.
        UnsupportedModel: It is no directory of this format.
    """
    if not directory.exists():
        raise CorruptModel(f"there is no model at {directory}")
    if not directory.is_dir():
        raise UnsupportedModel(f"{directory.name} is not a model directory")
    weights = {path.name for path in directory.glob(WEIGHTS)}
    index = read_json(directory / "model.safetensors.index.json", required=False)
    missing = sorted(set(index.get("weight_map", {}).values()) - weights)
    if missing:
        raise CorruptModel(f"{directory.name} lacks {', '.join(missing)}")
    if not weights:
        raise CorruptModel(f"{directory.name} has no {WEIGHTS}")
    for name in sorted(weights):
        check_safetensors(directory / name)


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """One JSON object.

    Returns:
        The object; empty for a file that need not exist and does not.

    Raises:
        CorruptModel: It cannot be read or is no object.
    """
    if not required and not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CorruptModel(f"{path.name} is no JSON object")
    return found


def check_safetensors(path: Path) -> None:
    """The file is as long as its header says.

    Raises:
        CorruptModel: It is truncated or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(HEADER_LENGTH.size)
        if len(prefix) < HEADER_LENGTH.size:
            raise CorruptModel(f"{path.name} is truncated")
        (header_bytes,) = HEADER_LENGTH.unpack(prefix)
        if header_bytes > MAX_HEADER_BYTES:
            raise CorruptModel(f"{path.name} is no safetensors file")
        header = file.read(header_bytes)
    expected = HEADER_LENGTH.size + header_bytes + _data_bytes(path, header, header_bytes)
    if size < expected:
        raise CorruptModel(f"{path.name} is truncated: {size} of {expected} bytes")


def _data_bytes(path: Path, header: bytes, header_bytes: int) -> int:
    if len(header) < header_bytes:
        raise CorruptModel(f"{path.name} is truncated")
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name[:2] != "__"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptModel(f"{path.name} has an unreadable header: {error}") from error
    return max(ends, default=0)
