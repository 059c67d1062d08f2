"""Why a prompt is not wholly there, as far as only its text can tell. Pure.

Clients put dates, counters and identifiers into their system prompts. A prompt that parts from what
is known inside a line that says the same but for such things is volatile: whoever writes that line
can move it to the end, and everything before it is found again.
"""

import re
from collections.abc import Callable, Sequence

from lmx.engines.base import PrefixOutlook

# Tokens around the parting point that are read: enough for a line.
READ_TOKENS = 48
# Digits with what stands between them in dates and times, hexadecimal words, and names of days and
# months.
CHANGING = re.compile(
    r"\b[0-9a-f]{6,}\b|\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b|"
    r"\b(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sep(?:tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b|[0-9][0-9a-f.,:/+-]*|[0-9a-f-]{8,}",
    re.IGNORECASE,
)
UNCHANGED = "#"


def explain_miss(
    outlook: PrefixOutlook, token_ids: Sequence[int], token_bytes: Callable[[int], bytes]
) -> str:
    """The outlook's reason, or ``volatile``.

    Args:
        outlook: What the engine foresees.
        token_ids: The prompt.
        token_bytes: Spells a token.
    """
    if outlook.reason != "diverged":
        return outlook.reason
    at = outlook.known_tokens
    before = _spell(token_ids[max(0, at - READ_TOKENS) : at], token_bytes)
    lines = [
        (before + _spell(rest, token_bytes))
        for rest in (token_ids[at : at + READ_TOKENS], outlook.continues[:READ_TOKENS])
    ]
    start = before.rfind("\n") + 1
    mine, theirs = (_settle(line[start:]) for line in lines)
    return "volatile" if mine == theirs else outlook.reason


def _spell(token_ids: Sequence[int], token_bytes: Callable[[int], bytes]) -> str:
    return b"".join(map(token_bytes, token_ids)).decode("utf-8", "replace")


def _settle(text: str) -> str:
    """The first line, without what changes in it."""
    return CHANGING.sub(UNCHANGED, text.partition("\n")[0]).strip()
