"""What a family of tool-call syntax is made of. Values only; reading is `lmx.text.reader`'s."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec

# The JSON schema of each offered tool's parameters, by the tool's name.
Tools = Mapping[str, Mapping[str, Any]]

# Stretches that hide markup: opening and closing. Those of one character know backslash escapes.
Quotes = tuple[tuple[str, str], ...]
STRINGS: Quotes = (('"', '"'), ("'", "'"))


class Call(NamedTuple):
    """One call: the tool's name and the compact JSON text of its arguments."""

    name: str
    arguments: str


# The whole body of a block to its calls; None, never an exception, for what it does not understand.
Parse = Callable[[str, Tools], list[Call] | None]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of block.

    Attributes:
        opening: Begins the block. Empty for a call without any marker.
        parse: Reads what stands between opening and end.
        ends: Markers of which the first outside quotes ends the block.
        quotes: Stretches in which nothing ends the block.
        is_balanced: The block also ends where its outermost bracket closes.
        is_whole_without_end: A body that parses is complete though its end is missing. False
            where an argument could still have followed.
        markup: What to leave out of a cut-off call's text besides the opening; a group is kept.
    """

    opening: str
    parse: Parse
    ends: tuple[str, ...] = ()
    quotes: Quotes = STRINGS
    is_balanced: bool = False
    is_whole_without_end: bool = True
    markup: re.Pattern[str] | None = None


class Section(msgspec.Struct, frozen=True):
    """What encloses all calls of an answer.

    Attributes:
        begin: Marker before the first call.
        end: Marker after the last one.
        is_optional: Openings are special tokens, recognised outside a section too.
    """

    begin: str
    end: str
    is_optional: bool = False


class Bare(msgspec.Struct, frozen=True):
    """Calls without an opening marker, recognised only where an answer begins.

    Attributes:
        rule: How such a call is read; its opening is empty.
        leads: From the offered tools' names to what a call begins with, white space left out.
    """

    rule: Rule
    leads: Callable[[Collection[str]], tuple[str, ...]]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One way to spell tool calls.

    Attributes:
        name: How settings name it.
        rules: Its blocks; none for models without tools.
        section: What encloses them, if anything does.
        bare: Its calls without markers, if it has any.
        silent: Markers around plain text, never shown, with tools or without.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    section: Section | None = None
    bare: Bare | None = None
    silent: tuple[str, ...] = ()


NO_TOOLS = Family(name="none")
