"""Types for values that a syntax leaves untyped: the tool's schema decides, then the text.

Reads as much of JSON Schema as tells a string from a number; it validates nothing.
"""

from collections.abc import Mapping
from typing import Any

from lmx.text.tools.family import Tools
from lmx.text.tools.literals import load_literal
from lmx.text.tools.values import BAD, load_json

_UNION_DEPTH = 4  # schemas of parameters are not nested deeper in practice


def schema_types(schema: object, depth: int = 0) -> frozenset[str]:
    """The JSON types a parameter's schema allows by name; empty if it does not say."""
    if not isinstance(schema, Mapping) or depth > _UNION_DEPTH:
        return frozenset()
    stated = schema.get("type")
    if isinstance(stated, str):
        return frozenset({stated})
    if isinstance(stated, list):
        return frozenset(name for name in stated if isinstance(name, str))
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return frozenset().union(*(schema_types(option, depth + 1) for option in options))
    if isinstance(choices := schema.get("enum"), list):
        return frozenset(name for choice in choices for name in _types_of(choice)[:1])
    return frozenset()


def _types_of(value: object) -> tuple[str, ...]:
    """The JSON types a value has, the narrowest first."""
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ("integer", "number")
    if isinstance(value, float):
        return ("number",)
    if isinstance(value, str):
        return ("string",)
    return ("array",) if isinstance(value, list) else ("object",)


def parameter_types(tools: Tools, tool: str, parameter: str) -> frozenset[str]:
    """The JSON types a tool's parameter may have; empty if its schema does not say."""
    properties = tools.get(tool, {}).get("properties")
    return (
        schema_types(properties.get(parameter))
        if isinstance(properties, Mapping)
        else schema_types(None)
    )


def typed_value(text: str, types: frozenset[str]) -> Any:
    """A value that a syntax without quotes left untyped.

    Args:
        text: As the model wrote it.
        types: What the schema allows; empty lets the text decide.

    Returns:
        The text itself where a string is meant or nothing else fits: a wrong type is the caller's
        to report, with the model's own words.
    """
    if types == {"string"}:
        return text
    stripped = text.strip()
    value = load_json(stripped)
    if value is BAD:
        value = load_literal(stripped)
    if value is BAD:
        return text
    if types and types.isdisjoint(_types_of(value)):
        return text
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return int(value)
    return value
