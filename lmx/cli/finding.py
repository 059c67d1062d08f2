"""What one check of ``lmx doctor`` found. Plain values."""

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        state: ``warn`` is worth knowing, ``fail`` keeps something from working.
        found: What was there, in a sentence.
        advice: What to do about it; empty if nothing has to be.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name=name, state="ok", found=found)


def warn(name: str, found: str, advice: str) -> Finding:
    """It works, but not as it should."""
    return Finding(name=name, state="warn", found=found, advice=advice)


def fail(name: str, found: str, advice: str) -> Finding:
    """Something cannot work like this."""
    return Finding(name=name, state="fail", found=found, advice=advice)
