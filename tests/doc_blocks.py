"""The examples of the documentation, taken out of it so that they can be run.

A block is run as it stands, less its address. A comment before it says where that is not so:
``<!-- not run: why -->``, or ``<!-- runs until stopped -->`` for what ends with Ctrl-C.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.daemon_process import REPOSITORY

ADDRESS = "localhost:1234"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUNNABLE = frozenset({"sh", "python"})
ENDLESS = "runs until stopped"
NOT_RUN = "not run: "


class Block(NamedTuple):
    """One example.

    Attributes:
        place: Its page and line.
        language: ``sh`` or ``python``.
        text: What it says.
        mark: What the comment before it says, if one stands there.
    """

    place: str
    language: str
    text: str
    mark: str

    def at(self, address: str) -> str:
        """What to run against a server that listens elsewhere."""
        return self.text.replace(ADDRESS, address)


def blocks_of(page: Path) -> Iterator[Block]:
    """A page's runnable examples, in order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        if found["language"] in RUNNABLE:
            line = text.count("\n", 0, found.start("text"))
            place = f"{page.name}:{line}"
            yield Block(place, found["language"], found["text"], found["mark"] or "")
