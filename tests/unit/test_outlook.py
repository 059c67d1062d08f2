"""A prompt that parts inside a line which says the same but for dates and counters is volatile."""

import pytest

from lmx.engines.base import PrefixOutlook
from lmx.worker.outlook import explain_miss


def spell(token_id: int) -> bytes:
    """Tokens are bytes."""
    return bytes([token_id])


def reason(known: str, asked: str) -> str:
    """What is said of a prompt when another one is known."""
    pairs = enumerate(zip(known, asked, strict=False))
    at = next(index for index, (one, other) in pairs if one != other)
    outlook = PrefixOutlook(0, "diverged", at, tuple(known[at:].encode()))
    return explain_miss(outlook, list(asked.encode()), spell)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("You help.\nToday is 2026-11-27.\nRules", "You help.\nToday is 2026-11-28.\nRules"),
        ("Date: Fri, 27 November 2026\nx", "Date: Sat, 28 November 2026\nx"),
        ("now 09:59:59 UTC", "now 10:00:01 UTC"),
        ("cch=3fa9c1e2; v=1\nbe brief", "cch=90ab77d1; v=1\nbe brief"),
        ("id 9f0c-11aa-7b3e.", "id 00dd-42ac-91f0."),
        ("cost 12.5 so far\n", "cost 113.25 so far\n"),
    ],
)
def test_lines_that_change_by_themselves(known: str, asked: str) -> None:
    """Dates, times, identifiers and numbers."""
    assert "volatile" == reason(known, asked)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("You are kind.\nRules", "You are terse.\nRules"),
        ("Today is 2026-11-27.\nA", "Today it rains at 12.\nA"),
        ("tools: look", "tools: find"),
        ("one\ntwo", "one\nthree"),
    ],
)
def test_lines_that_say_something_else(known: str, asked: str) -> None:
    """Another wording is another prompt, whatever numbers stand in it."""
    assert "diverged" == reason(known, asked)


@pytest.mark.parametrize("said", ["full", "new", "no-entry", "evicted", "off"])
def test_other_reasons_stay(said: str) -> None:
    """Only where a prompt diverged is its text looked at."""
    assert said == explain_miss(PrefixOutlook(3, said, 3), [1, 2, 3, 4], spell)
