"""How the fake models fail when their settings ask for it."""

import os
import re
import time
from collections.abc import Sequence

from lmx.engines.fake_tokens import END_ID
from lmx.errors import OutOfMemory

ASKED = "asked"
ASKED_FAILURE = re.compile(r"fail:(abort|exit|hang|oom|raise):(\d+)")


def find_failure(token_ids: Sequence[int]) -> tuple[str, int] | None:
    """The failure that a prompt asks for, and after how many tokens of its reply."""
    text = bytes(token_id for token_id in token_ids if token_id < END_ID).decode(errors="replace")
    found = ASKED_FAILURE.search(text)
    return None if found is None else (found[1], int(found[2]))


def fail_as(kind: str) -> None:
    """Fail in one of the ways that the settings name; ``asked`` and nothing are none."""
    if kind in {"", ASKED}:
        return
    if kind == "abort":
        os.abort()
    if kind == "exit":
        os._exit(7)
    if kind == "hang":
        time.sleep(3600)
    if kind == "oom":
        raise OutOfMemory("the fake device ran out of memory, as its settings ask")
    raise RuntimeError("the fake engine fails, as its settings ask")
