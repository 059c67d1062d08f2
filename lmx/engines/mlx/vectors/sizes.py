"""Sizes and switches that a net reads from `config.json`, checked one by one.

Knows types and names of fields, not nets: whatever is missing or makes no sense is an error that
names the field.
"""

from collections.abc import Mapping
from typing import Any

from lmx.catalog.mlx_config import count
from lmx.errors import CorruptModel


def require_count(config: Mapping[str, Any], field: str) -> int:
    """A count of 1 or more.

    Raises:
        CorruptModel: The field is missing or no count.
    """
    found = count(config, field)
    if not found:
        raise CorruptModel(f"config.json has no usable {field}: {config.get(field)!r}")
    return found


def number(config: Mapping[str, Any], field: str, default: float) -> float:
    """A positive number, or the default where the field is missing.

    Raises:
        CorruptModel: The field is something else.
    """
    found = config.get(field)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
        raise CorruptModel(f"config.json has no usable {field}: {found!r}")
    return float(found)


def head_width(config: Mapping[str, Any]) -> int:
    """Numbers per attention head.

    Raises:
        CorruptModel: The width is no multiple of the heads.
    """
    width, heads = (
        require_count(config, "hidden_size"),
        require_count(config, "num_attention_heads"),
    )
    if width % heads:
        raise CorruptModel(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    return width // heads
