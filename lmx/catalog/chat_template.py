"""Where a model directory keeps its chat template and names its special tokens.

Reads files, so it runs off the event loop. What a template says is for others to judge.
"""

from pathlib import Path
from typing import Any

import msgspec

from lmx.errors import CorruptModel

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def find_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The model's own template, from its own file or from ``tokenizer_config.json``.

    A list of named templates gives the one called ``default``, or else the first.
    """
    own_file = directory / TEMPLATE_FILE
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    found = tokenizer_config.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found if "name" in entry}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None


def read_template(directory: Path) -> tuple[str | None, frozenset[str]]:
    """The template, and the special tokens that ``tokenizer_config.json`` names.

    Raises:
        CorruptModel: A file that is there cannot be read.
    """
    path = directory / TOKENIZER_CONFIG_FILE
    try:
        config = msgspec.json.decode(path.read_bytes()) if path.is_file() else {}
        config = config if isinstance(config, dict) else {}
        return find_template(directory, config), frozenset(_special_tokens(config))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise CorruptModel(f"the chat template in {directory} cannot be read: {error}") from error


def _special_tokens(config: dict[str, Any]) -> list[str]:
    added = config.get("added_tokens_decoder")
    rows = added.values() if isinstance(added, dict) else ()
    return [
        row["content"]
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("content"), str)
    ]
