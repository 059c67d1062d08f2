"""``echo``, ``add`` and ``current_time``: skills to try skills with, and what models get wrong."""

import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def echo(text: str) -> str:
    """Answer with the text."""
    return text


def add(a: float, b: float) -> float:
    """Add two numbers.

    Raises:
        ValueError: The sum is too large for a number of JSON.
    """
    total = a + b
    if isinstance(total, float) and not math.isfinite(total):
        raise ValueError("the sum is too large")
    return total


def current_time(zone: str = "UTC") -> dict[str, Any]:
    """The date and time now.

    Args:
        zone: Name in the IANA time zone database.

    Raises:
        ValueError: No zone has that name.
    """
    try:
        place = UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"'{zone}' is no time zone; names are like 'Europe/Berlin' or 'UTC'"
        ) from None
    now = datetime.now(place).replace(microsecond=0)
    return {
        "iso": now.isoformat(),
        "date": now.date().isoformat(),
        "time": now.time().isoformat(),
        "weekday": now.strftime("%A"),
        "zone": zone,
        "unix_s": int(now.timestamp()),
    }
