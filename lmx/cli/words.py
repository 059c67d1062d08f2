"""Numbers as people read them, and foreign text as a terminal may show it. Pure."""

import re
from typing import Final
from urllib.parse import quote

KILO: Final = 1000
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
COUNT_UNITS = ("", "k", "M", "B", "T")
NONE = "-"
# All but line ends and tabs: a model's words must not move the cursor or set the title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def size_text(size_bytes: float | None) -> str:
    """Such as ``4.2 GB``, in powers of ten as everywhere in LMX."""
    return NONE if size_bytes is None else _scaled(size_bytes, BYTE_UNITS, " ")


def count_text(count: float | None) -> str:
    """Such as ``7.6B``."""
    return NONE if not count else _scaled(count, COUNT_UNITS, "")


def tokens_text(count: int | None) -> str:
    """A context length, such as ``32,768``."""
    return NONE if not count else f"{count:,}"


def duration_text(seconds: float) -> str:
    """Such as ``42 s``, ``3 min``, ``2 h 10 min`` or ``5 d``."""
    whole = max(0, round(seconds))
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min"
    if whole < DAY_S:
        minutes = whole % HOUR_S // MINUTE_S
        return f"{whole // HOUR_S} h" + (f" {minutes} min" if minutes else "")
    return f"{whole // DAY_S} d"


def path_segment(name: str) -> str:
    """An id as one segment of a path."""
    return quote(name, safe="")


def printable(text: str) -> str:
    """Text of others without what a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _scaled(value: float, units: tuple[str, ...], gap: str) -> str:
    index = 0
    while abs(value) >= KILO and index < len(units) - 1:
        value /= KILO
        index += 1
    digits = f"{value:.0f}" if index == 0 or value >= KILO / 10 else f"{value:.1f}"
    return f"{digits}{gap}{units[index]}".rstrip()
