"""From what models write to JSON text: shared by the families, knows none of them.

Nothing here raises. Models write line breaks inside JSON strings, numbers no double can hold and
brackets nested until a parser's stack ends; each comes out as a value or as `BAD`.
"""

import json
import re
from typing import Any, Final

from lmx.text.tools.family import Call

BAD: Final = object()

# What OpenAI allows, and the separators of names that come from MCP servers and modules.
_NAME = re.compile(r"[\w.:/-]{1,256}")
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")
# Keys that say nothing about arguments.
_OTHER_KEYS = frozenset({*_NAME_KEYS, "id", "type", "tool_call_id"})


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def load_json(text: str) -> Any:
    """The value of a whole JSON text, or `BAD`. Control characters in strings are accepted."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return BAD


def _encode(value: object) -> str | None:
    separators = (",", ":")
    try:
        text = json.dumps(value, ensure_ascii=False, separators=separators, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only its escape is valid UTF-8
        return json.dumps(value, separators=separators)
    return text


def make_call(name: object, arguments: object) -> Call | None:
    """A call, if the name can be one and the arguments are an object or the JSON text of one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    if isinstance(arguments, str):
        arguments = load_json(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    text = _encode(arguments)
    return None if text is None else Call(name, text)


def _call_from(value: object) -> Call | None:
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("function"), dict):
        value = inner
    name = next((value[key] for key in _NAME_KEYS if key in value), None)
    for key in _ARGUMENT_KEYS:
        if key in value:
            return make_call(name, value[key])
    # Arguments beside the name instead of below a key: not this syntax.
    return make_call(name, {}) if _OTHER_KEYS.issuperset(value) else None


def calls_from(value: object) -> list[Call] | None:
    """Calls of a decoded ``{"name", "arguments"}`` or of a list of them."""
    values = value if isinstance(value, list) else [value]
    calls = [call for item in values if (call := _call_from(item)) is not None]
    return calls if calls and len(calls) == len(values) else None
