"""Writes `docs/api.md` from the API's description: `scripts/generate_api.py [--check]`.

The description itself is made from the types that parse requests and spell answers, so the page
cannot say anything else than the server does. ``--check`` only tells whether the page is current.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmx import __version__
from lmx.schema.openapi import openapi_document

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """# The API

Made from the types that parse requests and spell answers; a running server shows the same at
`/docs`, and as OpenAPI 3.1 at `/openapi.json`. *inference* routes ask for the inference key if one
is set, *admin* routes for the admin key; see [security.md](security.md). What the fields of
requests do is told in [parameters.md](parameters.md). Every error has the same body: `code`, and
`error` with `message`, `type`, `param` and `code`.
"""
# The first group whose beginning fits; the last takes the rest.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Answers", ("/v1/chat", "/v1/completions", "/v1/messages")),
    ("Vectors and ranking", ("/v1/embeddings", "/v1/rerank", "/rerank", "/v2/", "/v1/score")),
    ("Tokens", ("/tokenize", "/detokenize", "/apply-template")),
    ("Skills", ("/v1/skills", "/mcp")),
    ("Administration", ("/admin",)),
    ("Models, probes and discovery", ("",)),
)
ACCESS = {0: "open", 3: "admin", 4: "inference"}
# A union of more kinds than this is told as "any".
MAX_KINDS = 4
# A bound that only keeps a number within what the pipe carries is not worth telling.
WIDE = 2**31 - 1


def write_page() -> str:
    """The whole page."""
    document = openapi_document(__version__)
    routes = [
        (path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    parts = [HEAD]
    for title, _ in GROUPS:
        chosen = [route for route in routes if _group(route[0]) == title]
        if not chosen:
            continue
        parts.append(f"## {title}\n")
        parts += [_section(route, document["components"]["schemas"]) for route in chosen]
    return "\n".join(parts)


def _group(path: str) -> str:
    return next(title for title, starts in GROUPS if path.startswith(starts))


def _section(route: tuple[str, str, Mapping[str, Any]], schemas: Mapping[str, Any]) -> str:
    path, method, operation = route
    lines = [f"### {method.upper()} {path}", ""]
    access = ACCESS[len(operation["security"])]
    lines += [f"{operation['summary']}. *{access}*", ""]
    body = operation.get("requestBody")
    if body is not None:
        reference = body["content"]["application/json"]["schema"]
        lines += _table("body", schemas[_name(reference)], schemas)
    lines += _parameters(operation)
    lines += _answers(operation, schemas)
    return "\n".join(lines)


def _parameters(operation: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| `{one['name']}` | {one['in']} | {_cell(one.get('description', ''))} |"
        for one in operation.get("parameters", [])
    ]
    return ["| parameter | in | |", "|---|---|---|", *rows, ""] if rows else []


def _answers(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    lines = []
    good = operation["responses"]["200"]["content"]
    reply = good.get("application/json", {}).get("schema")
    if reply is not None and "$ref" in (reply.get("items") or reply):
        kind = schemas[_name(reply.get("items") or reply)]
        lines += _table("list of" if "items" in reply else "answer", kind, schemas)
    if "text/event-stream" in good:
        name = _name(good["text/event-stream"]["schema"])
        lines += [f"Streams events of the kind `{name}`.", ""]
    others = [
        f"{status}: {_cell(response['description'])}"
        for status, response in operation["responses"].items()
        if status != "200"
    ]
    return [*lines, "; ".join(others) + ".", ""] if others else lines


def _table(title: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    needed = set(schema.get("required", ()))
    rows = [
        f"| `{name}`{'' if name not in needed else ' *'} | {_cell(_kind(field, schemas))} | "
        f"{_cell(_description(field))} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return [f"| {title} | type | |", "|---|---|---|", *rows, ""] if rows else []


def _description(field: Mapping[str, Any]) -> str:
    """What is said of a field, which of an optional one is said beside its null."""
    said = [field, *field.get("anyOf", ())]
    return next((one["description"] for one in said if "description" in one), "")


def _kind(field: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "$ref" in field:
        target = schemas[_name(field)]
        return f"`{_name(field)}`" if "properties" in target else _kind(target, schemas)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if value is not None)
    if "anyOf" in field:
        kinds = list(dict.fromkeys(_kind(one, schemas) for one in field["anyOf"]))
        known = [kind for kind in kinds if kind != "null"]
        return " or ".join(known) if 0 < len(known) <= MAX_KINDS else "any"
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}), schemas)}"
    return str(field.get("type", "any")) + _range(field)


def _range(field: Mapping[str, Any]) -> str:
    low = field.get("minimum", field.get("exclusiveMinimum", -WIDE))
    high = field.get("maximum", field.get("exclusiveMaximum", WIDE))
    if low <= -WIDE:
        return "" if high >= WIDE else f" to {high}"
    return f" from {low}" if high >= WIDE else f" {low} to {high}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _changed_lines(old: str, new: str) -> Iterator[str]:
    before = set(old.splitlines())
    return (line for line in new.splitlines() if line not in before)


def main() -> int:
    """Write the page, or say whether it is current."""
    page = write_page()
    old = PAGE.read_text() if PAGE.exists() else ""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
        return 0
    if old == page:
        return 0
    print(f"{PAGE.name} is not current; run scripts/generate_api.py. It lacks, among others:")
    print("\n".join(list(_changed_lines(old, page))[:10]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
