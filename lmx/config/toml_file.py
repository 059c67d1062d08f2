"""A TOML file as entries: the help pages' form of the configuration.

The parser of the standard library tells no lines, so a line is looked for that begins with the key
below the header of its table; a key in another form has none.
"""

import re
import tomllib
from pathlib import Path

from lmx.config.origins import Entry, Gathered, Origin
from lmx.config.yaml_file import without_values
from lmx.errors import ConfigError

_HEADER = re.compile(r"^\s*\[\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"""^\s*["']?([\w-]+)["']?\s*=""")


def read_toml(path: Path, text: str) -> Gathered:
    """What a file says.

    Args:
        path: For messages.
        text: Its content.

    Raises:
        ConfigError: It is no TOML.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {without_values(str(error))}") from None
    lines = _find_lines(text)
    entries = []
    for section, values in tree.items():
        if not isinstance(values, dict):
            line = lines.get(("", section), 0)
            entries.append(Entry(section, "", None, Origin("file", str(path), line)))
            continue
        for key, value in values.items():
            line = lines.get((section, key), lines.get((f"{section}.{key}", ""), 0))
            entries.append(Entry(section, key, value, Origin("file", str(path), line)))
    return Gathered(entries, [])


def _find_lines(text: str) -> dict[tuple[str, str], int]:
    """Table and key to the line they stand on, from 1; a table's own line is under no key."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header[1]
            found.setdefault((table, ""), number)
        elif key := _KEY.match(line):
            found.setdefault((table, key[1]), number)
    return found
