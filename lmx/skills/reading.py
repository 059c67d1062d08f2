"""One manifest's text made a `Manifest`, or one sentence on why not.

Nothing here touches a file, a process or the network. A manifest may come from anywhere, so its
size, its depth and what a reference in it can multiply are bounded before anything walks it.
"""

import difflib
import re
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import yaml
from msgspec import Struct

from lmx.errors import ConfigError
from lmx.skills.arguments import ArgumentRules
from lmx.skills.manifest import (
    OWN_PREFIXES,
    SCHEMA_ID,
    WRITABLE_SUFFIX,
    HttpCall,
    Manifest,
    McpTool,
    Permissions,
)

MAX_MANIFEST_BYTES = 256 * 1024
# LMX's own manifests; nobody else's may pass for them.
BUILTIN = "builtin"
# The field that says how a kind is run.
KIND_FIELDS = {
    "prompt": "template",
    "entrypoint": "entrypoint",
    "command": "command",
    "http": "http",
    "mcp": "mcp",
}
KINDS_WITH_PATH = ("entrypoint", "command")
PARTS: dict[str, type[Struct]] = {"permissions": Permissions, "http": HttpCall, "mcp": McpTool}
ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What stands for an argument in `command`, and for a variable in a header.
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
REFERENCE = re.compile(r"\$\{([^}]*)\}")


def parse_manifest(data: bytes, *, folder: Path, is_builtin: bool = False) -> Manifest:
    """Read one manifest.

    Args:
        data: Its YAML.
        folder: Where it lies, absolute: paths in it start there.
        is_builtin: It is one of LMX's own.

    Raises:
        ConfigError: It cannot be used; the message names the field.
    """
    tree = _decode(data)
    if tree.pop("schema", None) != SCHEMA_ID:
        raise ConfigError(f"schema: must be {SCHEMA_ID}")
    _refuse_unknown(tree, Manifest, "")
    for name, kind in PARTS.items():
        if isinstance(part := tree.get(name), dict):
            _refuse_unknown(part, kind, f"{name}.")
    try:
        manifest = msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error))) from None
    _check_kind(manifest, is_builtin=is_builtin)
    _check_permissions(manifest)
    ArgumentRules(manifest.input_schema)
    _check_command(manifest)
    return _located(manifest, folder)


def _decode(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise ConfigError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} is not UTF-8") from None
    try:
        if "&" in text and "*" in text:
            _refuse_aliases(text)
        tree = msgspec.yaml.decode(text)
    except (ValueError, yaml.YAMLError) as error:  # a ValueError also for an odd date
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError("expected keys such as 'name:' with values")
    return tree


def _refuse_aliases(text: str) -> None:
    """A few lines of them could stand for more values than memory holds."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"aliases ('*{event.anchor}') are not supported")


def _refuse_unknown(tree: dict[str, Any], kind: type[Struct], prefix: str) -> None:
    for key in tree:
        if key not in kind.__struct_fields__:
            near = difflib.get_close_matches(str(key), kind.__struct_fields__, 1, 0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{prefix}{key}: no such key{hint}")


def _readable(message: str) -> str:
    """A message of msgspec's with the field in front."""
    if missing := re.fullmatch(
        r"Object missing required field `(\w+)`(?: - at `\$\.?(.*)`)?", message
    ):
        inside = f"{missing[2]}." if missing[2] else ""
        return f"{inside}{missing[1]}: missing"
    text, _, place = message.partition(" - at `$.")
    field = place.rstrip("`")
    if field == "version" and "Expected `str`" in text:
        text = "write it in quotes"
    return f"{field}: {text}" if field else text


def _check_kind(manifest: Manifest, *, is_builtin: bool) -> None:
    if manifest.kind == "internal" and not is_builtin:
        raise ConfigError(f"kind: must be one of {', '.join(KIND_FIELDS)}")
    if manifest.namespace == BUILTIN and not is_builtin:
        raise ConfigError(f"namespace: '{BUILTIN}' is LMX's own")
    for kind, field in KIND_FIELDS.items():
        value = msgspec.structs.asdict(manifest)[field]
        if kind == manifest.kind and not value:
            raise ConfigError(f"{field}: a skill of kind {kind} needs it")
        if kind != manifest.kind and value:
            raise ConfigError(f"{field}: a skill of kind {manifest.kind} has none")
    if manifest.path is not None and manifest.kind not in KINDS_WITH_PATH:
        raise ConfigError(f"path: a skill of kind {manifest.kind} has none")
    if manifest.entrypoint is not None and not ENTRYPOINT.fullmatch(manifest.entrypoint):
        raise ConfigError("entrypoint: must be 'module:function'")
    if manifest.template is not None:
        _check_template(manifest.template)


def _check_template(template: str) -> None:
    try:
        jinja2.Environment(autoescape=False).parse(template)  # noqa: S701  # a prompt is no HTML
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template: line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise ConfigError("template: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"template: {error}") from None


def _check_permissions(manifest: Manifest) -> None:
    permissions = manifest.permissions
    for name in permissions.env:
        if not VARIABLE.fullmatch(name):
            raise ConfigError(f"permissions.env: '{name[:64]}' is not the name of a variable")
        if name.upper().startswith(OWN_PREFIXES):
            raise ConfigError(f"permissions.env: '{name}' is LMX's own, which no skill is given")
    if manifest.http is None:
        return
    if not permissions.network:
        raise ConfigError("permissions.network: a skill of kind http needs it to be true")
    for header, value in manifest.http.headers.items():
        if not (header + value).isprintable():
            raise ConfigError(f"http.headers.{header[:64]!r}: holds a control character")
        for name in REFERENCE.findall(value):
            if name not in permissions.env:
                raise ConfigError(f"http.headers.{header}: permissions.env does not have '{name}'")


def _check_command(manifest: Manifest) -> None:
    known = manifest.input_schema.get("properties", {})
    for position, element in enumerate(manifest.command):
        if "\0" in element:
            raise ConfigError(f"command[{position}]: holds a NUL")
        for match in PLACEHOLDER.finditer(element):
            if position == 0 and match[1]:
                raise ConfigError("command[0]: the program cannot be an argument")
            if match[1] and match[1] not in known:
                raise ConfigError(
                    f"command[{position}]: input_schema has no property '{match[1]}'; "
                    "literal braces are written twice"
                )


def _located(manifest: Manifest, folder: Path) -> Manifest:
    """With absolute paths."""
    permissions = manifest.permissions
    files = tuple(_absolute_grant(text, folder) for text in permissions.files)
    path = manifest.path
    if manifest.kind in KINDS_WITH_PATH:
        path = str(_absolute(path or ".", folder))
    return msgspec.structs.replace(
        manifest, permissions=msgspec.structs.replace(permissions, files=files), path=path
    )


def _absolute_grant(text: str, folder: Path) -> str:
    bare = text.removesuffix(WRITABLE_SUFFIX)
    suffix = WRITABLE_SUFFIX if bare != text else ""
    if not bare or "\0" in bare:
        raise ConfigError("permissions.files: a path is empty or holds a NUL")
    return f"{_absolute(bare, folder)}{suffix}"


def _absolute(text: str, folder: Path) -> Path:
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"'{text[:64]}': there is no such home directory") from None
