"""As much of JSON Schema 2020-12 as the API's description uses, to check values against it."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from lmx.schema.openapi import openapi_document

IGNORED = {"title", "description", "default", "discriminator", "additionalProperties"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
# Keywords about one kind of value: the types they are about, and what they demand.
LIMITS: dict[str, tuple[tuple[type, ...], Callable[[Any, Any], bool]]] = {
    "required": ((dict,), lambda names, value: all(name in value for name in names)),
    "minItems": ((list,), lambda limit, value: len(value) >= limit),
    "maxItems": ((list,), lambda limit, value: len(value) <= limit),
    "minLength": ((str,), lambda limit, value: len(value) >= limit),
    "pattern": ((str,), lambda pattern, value: re.search(pattern, value) is not None),
    "minimum": ((int, float), lambda limit, value: value >= limit),
    "maximum": ((int, float), lambda limit, value: value <= limit),
    "exclusiveMinimum": ((int, float), lambda limit, value: value > limit),
}


@functools.cache
def described_schemas() -> dict[str, Any]:
    """The components of the API's description."""
    schemas: dict[str, Any] = json.loads(json.dumps(openapi_document("1")))["components"]["schemas"]
    return schemas


def is_described(name: str, value: Any) -> bool:
    """Whether a value fits the component of that name."""
    return fits({"$ref": f"#/components/schemas/{name}"}, value, described_schemas())


def nodes(value: Any) -> Iterator[Any]:
    """Every value inside a value, and itself."""
    yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from nodes(inner)


def has_whole_float(value: Any) -> bool:
    """Whether there is a number such as 1.0, an integer for JSON Schema alone."""
    return any(isinstance(node, float) and node.is_integer() for node in nodes(value))


def fits(schema: dict[str, Any], value: Any, components: dict[str, Any]) -> bool:
    """Whether a value is what a schema describes; a keyword that is not known here fails."""
    keywords = [key for key in schema if key not in IGNORED]
    own = all(_fits_keyword(key, schema[key], value, components) for key in keywords)
    return own and _fits_inside(schema, value, components)


def _fits_keyword(key: str, wanted: Any, value: Any, components: dict[str, Any]) -> bool:
    if key in {"items", "properties", "propertyNames"}:
        return True
    if key == "$ref":
        return fits(components[wanted.removeprefix("#/components/schemas/")], value, components)
    if key == "anyOf":
        return any(fits(one, value, components) for one in wanted)
    if key == "enum":
        return any(_is_same(one, value) for one in wanted)
    if key == "const":
        return _is_same(wanted, value)
    if key == "type":
        is_boolean = isinstance(value, bool)
        return isinstance(value, TYPES[wanted]) and (not is_boolean or wanted == "boolean")
    kinds, is_within = LIMITS[key]
    return isinstance(value, bool) or not isinstance(value, kinds) or is_within(wanted, value)


def _fits_inside(schema: dict[str, Any], value: Any, components: dict[str, Any]) -> bool:
    if isinstance(value, list):
        return all(fits(schema.get("items", {}), item, components) for item in value)
    if not isinstance(value, dict):
        return True
    others, known = schema.get("additionalProperties", {}), schema.get("properties", {})
    names = schema.get("propertyNames", {})
    return all(
        fits(names, name, components) and fits(known.get(name, others), item, components)
        for name, item in value.items()
    )


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) and type(one) is type(other)
