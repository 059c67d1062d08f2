"""Write the example of the configuration and the tables of its documentation from the types.

``python -m scripts.generate_config`` writes them; with ``--check`` it only says which are stale,
and ends with status 1 if any is.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from lmx.config.known import SECTIONS
from lmx.config.manual import example_text, former_table, section_table

ROOT = Path(__file__).parent.parent
EXAMPLE = Path("config.example.yaml")
DOCUMENT = Path("docs/configuration.md")
# The name of the table of other versions' names, which is no section.
FORMER_NAMES = "other names"
END = "<!-- end -->"


def fill_tables(document: str) -> str:
    """A document with the tables that belong between its marks.

    Raises:
        ValueError: It has no place for a table.
    """
    for name in (*SECTIONS, FORMER_NAMES):
        table = former_table() if name == FORMER_NAMES else section_table(name)
        head, opening, rest = document.partition(f"<!-- table: {name} -->\n")
        _, closing, tail = rest.partition(END)
        if not opening or not closing:
            raise ValueError(f"no place for the table of {name}")
        document = f"{head}{opening}{table}\n{closing}{tail}"
    return document


def generated(root: Path) -> Iterator[tuple[Path, str]]:
    """Each file that is written, with what belongs in it."""
    yield EXAMPLE, example_text()
    yield DOCUMENT, fill_tables((root / DOCUMENT).read_text(encoding="utf-8"))


def stale(root: Path) -> list[Path]:
    """The files that do not hold what belongs in them."""
    return [
        path
        for path, text in generated(root)
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or with ``--check`` compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    options = parser.parse_args()
    paths = stale(ROOT)
    for path in paths:
        print(f"{path} is stale" if options.check else path)
    if not options.check:
        for path, text in generated(ROOT):
            (ROOT / path).write_text(text, encoding="utf-8")
    return 1 if options.check and paths else 0


if __name__ == "__main__":
    sys.exit(main())
