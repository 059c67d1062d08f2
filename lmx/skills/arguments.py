"""Arguments against a skill's JSON schema.

A schema may come from a stranger's MCP server and arguments from a model, so neither may cost
more than their size: patterns are matched in linear time, nothing is fetched, and what references
multiply is counted before it is compiled. The validator holds Python's lock while it works, so a
thread would not help; a megabyte takes it milliseconds.
"""

import hashlib
import re
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from lmx.errors import ConfigError, InvalidRequest

MAX_ARGUMENT_BYTES = 1_000_000
MAX_SCHEMA_DEPTH = 64
# Of a schema with every reference written out.
MAX_SCHEMA_VALUES = 20_000
SHOWN_CHARACTERS = 300
# Values under these are data, in which a `$ref` means nothing.
DATA_KEYWORDS = frozenset({"const", "default", "enum", "examples"})
# Under these stand schemas by name, and a name such as `default` is no keyword.
NAMED_SCHEMAS = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
# What `$schema` may be; the validator would fetch any other.
DIALECT = re.compile(
    r"https?://json-schema\.org/(?:(?:draft-0[467]|draft/2019-09|draft/2020-12)/)?schema#?"
)
# More digits than any list has places, and fewer than Python refuses to read.
INDEX = re.compile(r"[0-9]{1,9}")
REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


class ArgumentRules:
    """What arguments must be like.

    Args:
        schema: JSON schema of an object.

    Raises:
        ConfigError: The schema cannot be used.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        if schema.get("type", "object") != "object":
            raise ConfigError("input_schema.type: must be object")
        measure = _Measure(schema)
        measure.count(schema)
        self._is_recursive = measure.is_recursive
        try:
            jsonschema_rs.meta.validate(schema)
            self._validator = jsonschema_rs.validator_for(
                schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True
            )
        except jsonschema_rs.ValidationError as error:
            path = _path(["input_schema", *error.instance_path])
            raise ConfigError(f"{path}: {_cut(error.message)}") from None
        except ValueError as error:
            raise ConfigError(f"input_schema: {_cut(str(error))}") from None
        properties = schema.get("properties", {})
        self._defaults = {
            name: one["default"]
            for name, one in properties.items()
            if isinstance(one, dict) and "default" in one
        }

    def parse(self, arguments: Any) -> dict[str, Any]:
        """Check arguments and fill in defaults of the schema's top level.

        Args:
            arguments: An object, its JSON text, or `None` for no arguments.

        Raises:
            InvalidRequest: They do not match; the message starts with the place.
        """
        given = _parse_object(arguments)
        filled = {**self._defaults, **given}
        try:
            is_valid = self._validator.is_valid(filled)
        except ValueError as error:  # deeper than it descends
            raise InvalidRequest(f"arguments: {_cut(str(error))}", param="arguments") from None
        if not is_valid:
            raise self._explain(filled)
        return filled

    def _explain(self, arguments: dict[str, Any]) -> InvalidRequest:
        """Why they do not match. Looking for the place in a recursive schema may never end."""
        if self._is_recursive:
            return InvalidRequest("arguments: they do not match input_schema", param="arguments")
        error = next(iter(self._validator.iter_errors(arguments)))
        path = _path(["arguments", *error.instance_path])
        return InvalidRequest(f"{path}: {_cut(error.message)}", param=path)


def digest(arguments: Any) -> tuple[str, int]:
    """SHA-256 and size in bytes of arguments as canonical JSON; of what is no JSON, as it came."""
    try:
        is_text = isinstance(arguments, str) and len(arguments) <= MAX_ARGUMENT_BYTES
        value = msgspec.json.decode(arguments) if is_text else arguments
        data = msgspec.json.encode(value, order="sorted")
    except (TypeError, ValueError, RecursionError):
        data = arguments.encode(errors="replace") if isinstance(arguments, str) else b""
    return hashlib.sha256(data).hexdigest(), len(data)


def _parse_object(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        if len(arguments) > MAX_ARGUMENT_BYTES:
            raise _too_large()
        try:
            arguments = msgspec.json.decode(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            message = f"arguments: not JSON: {error}"
            raise InvalidRequest(message, param="arguments") from None
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise InvalidRequest("arguments: must be an object", param="arguments")
    try:
        size = len(msgspec.json.encode(arguments))
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("arguments: must be JSON", param="arguments") from None
    if size > MAX_ARGUMENT_BYTES:
        raise _too_large()
    return arguments


def _too_large() -> InvalidRequest:
    return InvalidRequest(f"arguments: more than {MAX_ARGUMENT_BYTES} bytes", param="arguments")


class _Measure:
    """Counts a schema's values with every reference written out.

    Attributes:
        is_recursive: A reference leads to what holds it.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.is_recursive = False
        self._schema = schema
        self._counts: dict[str, int | None] = {}  # `None` while it is being counted

    def count(self, value: Any, depth: int = 0, *, has_names: bool = False) -> int:
        """Values in `value`, itself included.

        Args:
            value: A schema or part of one.
            depth: How deep it stands.
            has_names: It is an object of schemas by name.

        Raises:
            ConfigError: Too many, or too deep.
        """
        if depth > MAX_SCHEMA_DEPTH:
            raise ConfigError("input_schema: nested too deeply")
        total = 1
        if isinstance(value, dict):
            for key, inner in value.items():
                if has_names:
                    total += self.count(inner, depth + 1)
                else:
                    total += self._count_member(key, inner, depth)
        elif isinstance(value, list):
            total += sum(self.count(inner, depth + 1) for inner in value)
        if total > MAX_SCHEMA_VALUES:
            raise ConfigError(
                f"input_schema: more than {MAX_SCHEMA_VALUES} values, references written out"
            )
        return total

    def _count_member(self, key: str, inner: Any, depth: int) -> int:
        if key in DATA_KEYWORDS:
            return 1
        if not isinstance(inner, str):
            return self.count(inner, depth + 1, has_names=key in NAMED_SCHEMAS)
        if key in REFERENCES:
            return self._follow(unquote(inner), depth)
        if key == "$id" and depth:
            raise ConfigError("input_schema: '$id' below the top is not supported")
        if key == "$schema" and not DIALECT.fullmatch(inner):
            raise ConfigError(f"input_schema.$schema: '{_cut(inner)}' is not known here")
        return 1

    def _follow(self, reference: str, depth: int) -> int:
        if reference not in self._counts:
            self._counts[reference] = None
            self._counts[reference] = self.count(self._target(reference), depth + 1)
        known = self._counts[reference]
        if known is None:
            self.is_recursive = True
        return known or 0

    def _target(self, reference: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise ConfigError(
                f"input_schema: '{_cut(reference)}': a reference must start with '#/'"
            )
        target: Any = self._schema
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and INDEX.fullmatch(name) and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, dict) and name in target:
                target = target[name]
            else:
                raise ConfigError(f"input_schema: '{_cut(reference)}' is not there")
        return target


def _path(steps: list[str | int]) -> str:
    return ".".join(str(step) for step in steps)


def _cut(text: str) -> str:
    first = text.split("\n", 1)[0]
    return first if len(first) <= SHOWN_CHARACTERS else first[:SHOWN_CHARACTERS] + "…"
