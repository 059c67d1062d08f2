"""The settings as a person reads them: the example file and the tables of the documentation.

Everything comes from the types and their docstrings, so that neither can tell of a setting that
does not exist, or leave one out.
"""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from lmx.config.former import FORMER, MOOT, SECTIONS_WITHOUT_MEANING
from lmx.config.known import SECTIONS, SETTINGS, Setting, describe
from lmx.config.reloading import NEEDS_RESTART
from lmx.config.sections import Settings

WIDTH = 96
_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")
_PLAIN = re.compile(r"[A-Za-z0-9_][\w./-]*")
# Texts that YAML would read as something else.
_NOT_TEXT = re.compile(r"(?i)(null|true|false|yes|no|on|off|[\d._-]+)")
HEAD = """\
# Every setting of LMX with its default. Copy this file to ~/.opta-lmx/config.yaml, take the `#`
# away before what you change, and check it with `lmx config check`.
#
# Written by scripts/generate_config.py from the types in lmx/config; change it there.
"""


def section_text(section: str) -> str:
    """What a section is about: the first sentence or two of its docstring."""
    return _squeeze(_docstring(section).partition("\n\n")[0])


def setting_text(setting: Setting) -> str:
    """What a setting means, as one line; empty if its docstring does not say."""
    lines = _docstring(setting.section).splitlines()
    found: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :] if "Attributes:" in lines else ():
        attribute = _ATTRIBUTE.match(line)
        if attribute and found:
            break
        if attribute and attribute[1] == setting.key:
            found.append(attribute[2])
        elif found:
            found.append(line.strip())
    return _squeeze(" ".join(found)).replace("`None`", "null")


def spell(value: Any) -> str:
    """A default as YAML on one line."""
    plain = msgspec.to_builtins(value)
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    if isinstance(plain, str) and _PLAIN.fullmatch(plain) and not _NOT_TEXT.fullmatch(plain):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def example_text() -> str:
    """The example file."""
    return HEAD + "".join(f"\n{line}" for line in _example_lines()) + "\n"


def _example_lines() -> Iterator[str]:
    for section in SECTIONS:
        yield from _comment(section_text(section), "")
        yield f"{section}:"
        for setting in SETTINGS.values():
            if setting.section == section:
                restart = " Needs a restart." if setting.name in NEEDS_RESTART else ""
                expected = describe(setting.info)
                text = f"{setting_text(setting)} {expected[0].upper()}{expected[1:]}.{restart}"
                yield from _comment(text, "  ")
                yield f"  # {setting.key}: {spell(setting.default)}"
        yield ""


def _comment(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(text.replace("``", "`"), WIDTH - len(indent) - 2)
    return [f"{indent}# {line}" for line in lines]


def section_table(section: str) -> str:
    """A section's settings as a table of Markdown."""
    rows = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for setting in SETTINGS.values():
        if setting.section == section:
            mark = " ↻" if setting.name in NEEDS_RESTART else ""
            cells = (
                f"`{setting.key}`{mark}",
                f"`{spell(setting.default)}`",
                _cell(describe(setting.info)),
                _cell(setting_text(setting)),
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def former_table() -> str:
    """Names of other versions, as a table of Markdown."""
    rows = ["| name | here |", "|---|---|"]
    rows += [f"| `{name}` | `{former.name}` |" for name, former in FORMER.items()]
    rows += [f"| `{name}` | nothing: {moot.why} |" for name, moot in MOOT.items()]
    rows += [f"| `{name}:` | nothing: {why} |" for name, why in SECTIONS_WITHOUT_MEANING.items()]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _docstring(section: str) -> str:
    kind = {field.name: field.type for field in msgspec.structs.fields(Settings)}[section]
    return inspect.cleandoc(kind.__doc__ or "")
