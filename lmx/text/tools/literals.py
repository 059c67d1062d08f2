"""Python calls and literals, and Gemma's, turned into JSON text token by token.

Nothing is evaluated: a token that is not a literal, a bracket or a keyword argument ends the
attempt. What comes out is read by the JSON parser, which checks the grammar.
"""

import json
import re
from typing import Any

from lmx.text.tools.family import Call
from lmx.text.tools.values import BAD, load_json, make_call

_STRING = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_REST = r"""
  | (?P<number> -?\d+ (?:\.\d+)? (?:[eE][+-]?\d+)? (?![\w.]) )
  | (?P<word> [^\W\d][\w.]* )
  | (?P<mark> [\[\]{}():,=] )
)"""
_CONSTANTS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
# For each opening bracket what closes it, and what is written for that: a tuple becomes a list.
_CLOSED_BY = {"[": ("]", "]"), "{": ("}", "}"), "(": (")", "]")}
_CALL = (")", "}]")
_LAST_CODE_POINT = 0x10FFFF


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        point = int(code, 16)
        return chr(point) if point <= _LAST_CODE_POINT else found[0]
    # As Python does: quotes and backslashes stand for themselves, unknown escapes stay whole.
    return _ESCAPES.get(found[4], found[4] if found[4] in "\"'\\/" else found[0])


class _Translation:
    """One text on its way to JSON.

    Args:
        text: The literal or the calls.
        quote: Delimits strings instead of Python's quotes; nothing is escaped between.
    """

    def __init__(self, text: str, quote: str) -> None:
        quoted = rf"{re.escape(quote)}.*?{re.escape(quote)}" if quote else _STRING
        pattern = re.compile(rf"\s* (?: (?P<string> {quoted} ) {_REST}", re.VERBOSE | re.DOTALL)
        self._quote = quote
        self._out: list[str] = []
        self._closers: list[tuple[str, str]] = []  # of the open brackets, outermost first
        self._tokens: list[tuple[str, str]] = []
        self.is_good = False
        at = 0
        text = text.rstrip()
        while at < len(text):
            if (found := pattern.match(text, at)) is None:
                return
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            at = found.end()
        self.is_good = bool(self._tokens) and self._run()

    def json_text(self) -> str:
        """What came out; valid JSON only as far as the input was a literal."""
        return "".join(self._out)

    def _run(self) -> bool:
        at = 0
        while at < len(self._tokens):
            kind, token = self._tokens[at]
            following = self._tokens[at + 1][1] if at + 1 < len(self._tokens) else ""
            if kind == "word":
                used = self._word(token, following)
            elif kind == "mark":
                used = self._mark(token)
            else:
                used = 1
                self._out.append(token if kind == "number" else self._string(token))
            if not used:
                return False
            at += used
        return not self._closers

    def _string(self, token: str) -> str:
        if self._quote:
            return json.dumps(token[len(self._quote) : -len(self._quote)])
        return json.dumps(_ESCAPE.sub(_unescape, token[1:-1]))

    def _word(self, word: str, following: str) -> int:
        """Translate a name; the number of tokens used, 0 if it has no business here."""
        if following == "(" and self._closers in ([], [_CLOSED_BY["["]]):
            if not self._closers and self._out and self._out[-1] != ",":
                self._out.append(",")  # calls on lines of their own
            self._out.append(f"[{json.dumps(word)},{{")
            self._closers.append(_CALL)
            return 2
        if following == "=" and self._closers[-1:] == [_CALL]:
            self._out.append(f"{json.dumps(word)}:")
            return 2
        if following == ":":
            self._out.append(json.dumps(word))
            return 1
        if word in _CONSTANTS:
            self._out.append(_CONSTANTS[word])
            return 1
        if self._quote:  # Gemma leaves out the quotes of some one-word strings
            self._out.append(json.dumps(word))
            return 1
        return 0

    def _mark(self, mark: str) -> int:
        if mark in _CLOSED_BY:
            self._out.append("{" if mark == "{" else "[")
            self._closers.append(_CLOSED_BY[mark])
            return 1
        if mark in ",:":
            self._out.append(mark)
            return 1
        if mark == "=" or not self._closers:
            return 0
        closed_by, written = self._closers.pop()
        if closed_by != mark:
            return 0
        if self._out[-1] == ",":
            self._out.pop()
        self._out.append(written)
        return 1


def load_literal(text: str, *, quote: str = "") -> Any:
    """The value of a Python literal, or `BAD`.

    Args:
        text: Only literals; keys may be bare words.
        quote: Delimits strings instead of Python's quotes; nothing is escaped between.
    """
    translation = _Translation(text, quote)
    return load_json(translation.json_text()) if translation.is_good else BAD


def load_calls(text: str) -> list[Call] | None:
    """Calls such as ``[f(a=1), g()]``, with or without the brackets; None for anything else."""
    translation = _Translation(text, "")
    if not translation.is_good:
        return None
    inner = translation.json_text()
    value = load_json(inner if text.lstrip().startswith("[") else f"[{inner}]")
    if not isinstance(value, list):
        return None
    calls = [call for item in value if (call := _call_from(item)) is not None]
    return calls if calls and len(calls) == len(value) else None


def _call_from(item: object) -> Call | None:
    match item:
        case [str(name), dict(arguments)]:
            return make_call(name, arguments)
        case _:
            return None
