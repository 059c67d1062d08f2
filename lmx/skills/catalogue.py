"""Skills as MCP knows them: tools, prompts and documents, each under a name or an address.

Pure, and without the SDK: the REST routes and the MCP server show the same lists. A skill of kind
``prompt`` is a prompt, every other a tool, and each has a document about itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import yaml
from msgspec import Struct

from lmx.errors import SkillNotFound
from lmx.skills.manifest import SCHEMA_ID, Manifest
from lmx.skills.plan import fit_name
from lmx.skills.service import Skills

SCHEME = "skill://"
DOCUMENT_TYPE = "text/markdown"


class NamedSkill(Struct, frozen=True):
    """A skill under the name that clients of MCP see."""

    name: str
    manifest: Manifest


class PromptField(Struct, frozen=True):
    """Something a prompt wants to be told."""

    name: str
    description: str
    is_required: bool


def tools_of(skills: Skills) -> list[NamedSkill]:
    """The latest version of each skill that is a tool."""
    return _named(one for one in skills.list(latest_only=True) if one.kind != "prompt")


def prompts_of(skills: Skills) -> list[NamedSkill]:
    """The latest version of each skill that is a prompt."""
    return _named(one for one in skills.list(latest_only=True) if one.kind == "prompt")


def find_named(shown: Sequence[NamedSkill], skills: Skills, name: str) -> Manifest:
    """The skill that a client means: as it was shown to it, or by any of its own names.

    Raises:
        SkillNotFound: There is none, or it is not of the kind that was shown.
    """
    found = next((one.manifest for one in shown if one.name == name), None)
    if found is not None:
        return found
    manifest = skills.find(name)
    if not any(one.manifest.qualified_name == manifest.qualified_name for one in shown):
        raise SkillNotFound(f"{name!r} is not one of these, but of kind {manifest.kind}")
    return manifest


def prompt_fields(manifest: Manifest) -> list[PromptField]:
    """What a prompt wants to be told, from its schema."""
    schema = manifest.input_schema
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    needed = required if isinstance(required, list) else []
    return [
        PromptField(name, _description(value), name in needed) for name, value in properties.items()
    ]


def typed_arguments(manifest: Manifest, texts: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a prompt, which MCP sends as texts, in the types of the skill's schema.

    What is no JSON of its own stays a text, and the schema is left to refuse it.
    """
    properties = manifest.input_schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    return {name: _typed(text, known.get(name)) for name, text in texts.items()}


def uri_of(manifest: Manifest) -> str:
    """The address of the document about a skill."""
    return f"{SCHEME}{quote(manifest.namespace)}/{quote(manifest.name)}"


def find_document(skills: Skills, uri: str) -> Manifest:
    """The skill that a document is about.

    Raises:
        SkillNotFound: No skill has this address.
    """
    if not uri.startswith(SCHEME):
        raise SkillNotFound(f"There is no document {uri!r}; they begin with {SCHEME}", param="uri")
    name = unquote(uri.removeprefix(SCHEME))
    try:
        return skills.find(name)
    except SkillNotFound as error:
        raise SkillNotFound(error.message, param="uri") from error


def document_of(manifest: Manifest) -> str:
    """What a skill does and wants, for people and models.

    Says nothing of how it is run: addresses, programs and headers are nobody's business.
    """
    shown = {
        "schema": SCHEMA_ID,
        "name": manifest.name,
        "namespace": manifest.namespace,
        "version": manifest.version,
        "kind": manifest.kind,
        "requires_approval": manifest.requires_approval,
        "permissions": manifest.permission_tags,
        "risks": list(manifest.risk_tags),
        "input_schema": msgspec.to_builtins(manifest.input_schema),
    }
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return f"# {manifest.qualified_name}\n\n{manifest.description}\n\n```yaml\n{text}```\n"


def _named(manifests: Iterable[Manifest]) -> list[NamedSkill]:
    """A bare name where it is nobody else's, otherwise the namespace with it."""
    listed = list(manifests)
    counts = Counter(fit_name(one.name) for one in listed)
    shown: list[NamedSkill] = []
    taken: set[str] = set()
    for manifest in listed:
        bare = fit_name(manifest.name)
        name = bare if counts[bare] == 1 else fit_name(f"{manifest.namespace}__{manifest.name}")
        if name not in taken:  # what differs in unfit characters alone is called by its own name
            taken.add(name)
            shown.append(NamedSkill(name, manifest))
    return shown


def _description(schema: Any) -> str:
    said = schema.get("description") if isinstance(schema, dict) else None
    return said if isinstance(said, str) else ""


def _typed(text: str, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, dict) else None
    kinds = kind if isinstance(kind, list) else [kind]
    if None in kinds or "string" in kinds:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
