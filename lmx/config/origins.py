"""What was said where: a value with its origin, and a warning with its place.

Nothing here ever shows a value, for a value may be a key.
"""

from typing import Any, Literal

from msgspec import Struct


class Origin(Struct, frozen=True):
    """Where a value came from.

    Attributes:
        kind: The source.
        place: Path of the file, or name of the variable; empty otherwise.
        line: Line of the key in the file, from 1; 0 where that is not known.
    """

    kind: Literal["default", "file", "environment", "command line"]
    place: str = ""
    line: int = 0

    def __str__(self) -> str:
        if not self.place:
            return self.kind
        return f"{self.place}, line {self.line}" if self.line else self.place


DEFAULT = Origin("default")
COMMAND_LINE = Origin("command line")


class Entry(Struct, frozen=True):
    """One value as a source gives it.

    Attributes:
        section: Name of the section, as written there.
        key: Name of the key, as written there.
        value: What was said.
        origin: Where.
        said_as: The name it was given by where that is not its own.
    """

    section: str
    key: str
    value: Any
    origin: Origin
    said_as: str = ""

    @property
    def name(self) -> str:
        """Section and key with a dot between."""
        return f"{self.section}.{self.key}"

    @property
    def title(self) -> str:
        """How a message calls it, so that who wrote it finds it."""
        return f"{self.said_as} (here {self.name})" if self.said_as else self.name

    def __repr__(self) -> str:
        return f"Entry({self.title}, {self.origin})"


class ConfigWarning(Struct, frozen=True):
    """Something that was said and has no effect, or not the one that was meant.

    Attributes:
        origin: Where.
        message: What, without its value.
        is_unsafe: Whether it may be a misspelled setting of `security`, without which the daemon
            would be more open than was meant.
    """

    origin: Origin
    message: str
    is_unsafe: bool = False

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


class Gathered(Struct, frozen=True):
    """What one source says, in order, and what is odd about it."""

    entries: list[Entry]
    warnings: list[ConfigWarning]
