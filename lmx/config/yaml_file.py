"""A YAML file as entries that know their lines.

Nodes are read instead of values, for nodes know where they stand. What is written twice counts the
last time, key by key, and is warned of. Messages hold nothing that a parser quotes from the file.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from lmx.config.origins import ConfigWarning, Entry, Gathered, Origin
from lmx.errors import ConfigError

_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE_TAG = "tag:yaml.org,2002:merge"
# A key as tools insert it, above keys that stand deeper than it.
_SHALLOW_KEY = re.compile(
    r"^(?P<head>security:[ \t]*(?:#.*)?\n)"
    r"  (?P<line>inference_api_key:.*\n)(?P<indent> {3,})(?=[a-z_]+:)",
    re.MULTILINE,
)


def read_yaml(path: Path, text: str) -> Gathered:
    """What a file says.

    Args:
        path: For messages.
        text: Its content.

    Raises:
        ConfigError: It is no YAML, or holds no sections with keys.
    """
    # `opta key create` inserts its line two blanks deep, whatever stands below.
    return _Reader(path, _SHALLOW_KEY.sub(r"\g<head>\g<indent>\g<line>\g<indent>", text)).read()


class _Reader:
    """Reads one text.

    Args:
        path: For messages.
        text: What to read.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._loader = self._parse(yaml.CSafeLoader, text)
        self._warnings: list[ConfigWarning] = []

    def read(self) -> Gathered:
        """All entries, in the order of the file."""
        root = self._parse(self._loader.get_single_node)
        entries: list[Entry] = []
        if root is not None and not _is_null(root):
            if not isinstance(root, MappingNode):
                raise self._unsectioned(root)
            for section, line, node in self._pairs(root, "section"):
                entries += self._section(section, line, node)
        return Gathered(entries, self._warnings)

    def _section(self, section: str, line: int, node: Node) -> Iterator[Entry]:
        if _is_null(node):
            return
        if not isinstance(node, MappingNode):
            # Whether that is a mistake depends on whether there is such a section.
            yield Entry(section, "", None, self._origin(line))
            return
        for key, key_line, value in self._pairs(node, f"{section}: key"):
            given = self._parse(self._loader.construct_object, value, deep=True, line=key_line)
            yield Entry(section, key, given, self._origin(key_line))

    def _pairs(self, node: MappingNode, what: str) -> list[tuple[str, int, Node]]:
        """Names, lines and values of a mapping. Of a name that comes twice, the last one counts."""
        names = [name for name, _, _ in self._own_pairs(node)]
        for number, (name, line, _) in enumerate(self._own_pairs(node)):
            if name in names[:number]:
                shown = re.sub(r"[^\w. -]", "?", name[:40])
                message = f"{what} {shown} comes twice; the last one counts"
                self._warnings.append(ConfigWarning(self._origin(line), message))
        if any(key.tag == _MERGE_TAG for key, _ in node.value):
            self._parse(self._loader.flatten_mapping, node, line=node.start_mark.line + 1)
        return self._own_pairs(node)

    def _own_pairs(self, node: MappingNode) -> list[tuple[str, int, Node]]:
        found: list[tuple[str, int, Node]] = []
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                continue
            name, line = str(key.value) if isinstance(key, ScalarNode) else "?", key.start_mark.line
            if ":" in name:
                origin = self._origin(line + 1)
                raise ConfigError(f"{origin}: a blank is missing after the first colon")
            found.append((name, line + 1, value))
        return found

    def _parse(self, parse: Any, *args: Any, line: int = 0, **options: Any) -> Any:
        """Call a parser.

        Raises:
            ConfigError: In place of what it raises, without what that quotes.
        """
        try:
            return parse(*args, **options)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = without_values(error.problem or "no YAML")
            line = line if mark is None else mark.line + 1
            begun = error.context_mark
            if begun is not None and begun.line + 1 < line:
                problem += f", in what begins on line {begun.line + 1}"
        except (yaml.YAMLError, ValueError) as error:  # the latter for an odd date
            problem = without_values(str(error)).partition("\n")[0]
        raise ConfigError(f"{self._origin(line)}: {problem}") from None

    def _origin(self, line: int) -> Origin:
        return Origin("file", str(self._path), line)

    def _unsectioned(self, node: Node) -> ConfigError:
        origin = self._origin(node.start_mark.line + 1)
        return ConfigError(f"{origin}: expected sections such as 'server:' with keys below them")


def _is_null(node: Node) -> bool:
    return node.tag == _NULL_TAG


def without_values(message: str) -> str:
    """A parser's message without what it quotes from the file."""
    return re.sub(r"""(['"]).*\1""", "...", message)
