"""What an answer must match: ``response_format`` and the ``guided_*`` fields to one `Grammar`.

Whether a schema or an expression can be compiled is the worker's to find out; here it is only
found which one was asked for.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from lmx.errors import InvalidRequest
from lmx.protocol.values import Grammar
from lmx.schema.fields import GenerationFields

# As OpenAI restricts the names of functions and schemas. Python's `$` alone lets a newline pass.
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]

# Characters with a meaning in regular expressions, in Python's and in Rust's dialect.
_META_CHARACTERS = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")


class TextFormat(Struct, tag_field="type", tag="text"):
    """Free text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(Struct):
    """A named schema."""

    schema: dict[str, Any]
    name: Name | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


def choose_grammar(
    fields: GenerationFields, response_format: ResponseFormat | None = None
) -> Grammar | None:
    """The one constraint that was asked for.

    Raises:
        InvalidRequest: There are several.
    """
    grammars = [*_of_format(response_format), *_of_guides(fields)]
    if len(grammars) > 1:
        first, second = (grammar.param for grammar in grammars[:2])
        raise InvalidRequest(f"{second!r} cannot be combined with {first!r}", param=second)
    return grammars[0] if grammars else None


def choice_regex(choices: Sequence[str]) -> str:
    """A regular expression that matches exactly these strings."""
    return "|".join(_META_CHARACTERS.sub(r"\\\g<0>", choice) for choice in choices)


def _of_format(response_format: ResponseFormat | None) -> list[Grammar]:
    match response_format:
        case JsonObjectFormat():
            return [Grammar("json_schema", '{"type":"object"}', "response_format")]
        case JsonSchemaFormat(json_schema=JsonSchema(schema=schema)):
            return [_schema_grammar(schema, param="response_format.json_schema.schema")]
        case TextFormat() | None:
            return []


def _of_guides(fields: GenerationFields) -> list[Grammar]:
    grammars = []
    if fields.guided_json is not None:
        grammars.append(_schema_grammar(fields.guided_json, param="guided_json"))
    if fields.guided_regex is not None:
        grammars.append(Grammar("regex", fields.guided_regex, "guided_regex"))
    if fields.guided_choice is not None:
        grammars.append(Grammar("regex", choice_regex(fields.guided_choice), "guided_choice"))
    if fields.guided_grammar is not None:
        grammars.append(Grammar("lark", fields.guided_grammar, "guided_grammar"))
    return grammars


def _schema_grammar(schema: dict[str, Any], *, param: str) -> Grammar:
    return Grammar("json_schema", msgspec.json.encode(schema).decode(), param)
