"""Manifests: what can be written in them, and what is said of those that cannot be used."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmx.errors import ConfigError
from lmx.skills.folders import MAX_FILES, ManifestFolders
from lmx.skills.manifest import SCHEMA_ID, Manifest
from lmx.skills.reading import MAX_MANIFEST_BYTES, parse_manifest

FOLDER = Path("/skills")


def manifest_yaml(**fields: Any) -> bytes:
    """A manifest of kind `prompt` with some fields changed; `None` leaves one out."""
    tree = {"schema": SCHEMA_ID, "name": "greet", "kind": "prompt", "template": "Hi", **fields}
    return yaml.safe_dump({key: value for key, value in tree.items() if value is not None}).encode()


def entry(**fields: Any) -> bytes:
    """A manifest of kind `entrypoint`."""
    fields = {"kind": "entrypoint", "entrypoint": "tool:run", "template": None, **fields}
    return manifest_yaml(**fields)


def parse(data: bytes) -> Manifest:
    """As a file in `FOLDER`."""
    return parse_manifest(data, folder=FOLDER)


def error_of(data: bytes) -> str:
    """What is said of a manifest that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        parse(data)
    return caught.value.message


def test_a_manifest_says_everything_about_a_skill() -> None:
    """Every field arrives, paths are absolute from the manifest's folder, tags are words."""
    data = entry(
        namespace="me",
        version="1.2",
        description="d",
        timeout_s=3,
        permissions={"network": True, "files": ["data", "out:rw"], "env": ["TOKEN"]},
        risk_tags=["network"],
        requires_approval=True,
        path="lib",
        input_schema={"properties": {"a": {"type": "string"}}},
    )
    manifest = parse(data)
    assert "me/greet@1.2" == manifest.reference
    assert "/skills/lib" == manifest.path
    assert ("network", "files:/skills/data", "files:/skills/out:rw", "env:TOKEN") == tuple(
        manifest.permission_tags
    )
    assert manifest.requires_approval
    assert 3.0 == manifest.timeout_s


def test_the_home_directory_and_absolute_paths_are_kept() -> None:
    """``~`` is somebody's home, and an absolute path stays where it is."""
    manifest = parse(entry(permissions={"files": ["~/x", "/etc/hosts"]}, path="/opt/tools"))
    assert (str(Path.home() / "x"), "/etc/hosts") == manifest.permissions.files
    assert "/opt/tools" == manifest.path


BAD = [
    (b"", "expected keys"),
    (b"- 1\n", "expected keys"),
    (b"name: [", "not YAML"),
    (b"name: \xff", "byte 6 is not UTF-8"),
    (b"x" * (MAX_MANIFEST_BYTES + 1), "at most"),
    (b"[" * 50_000, "not YAML"),
    (b"a: &a [1]\nb: *a\n", "aliases ('*a')"),
    (b"schema: 2024-13-45\n", "not YAML"),
    (manifest_yaml(schema=None), f"schema: must be {SCHEMA_ID}"),
    (manifest_yaml(schema="v2"), f"schema: must be {SCHEMA_ID}"),
    (manifest_yaml(tempalte="x"), "tempalte: no such key; did you mean 'template'?"),
    (manifest_yaml(zzz=1), "zzz: no such key"),
    (entry(permissions={"netwrok": True}), "permissions.netwrok: no such key; did you mean"),
    (manifest_yaml(name=None), "name: missing"),
    (manifest_yaml(name="a/b"), "name: "),
    (manifest_yaml(name=5), "name: Expected `str`"),
    (manifest_yaml(version=1.5), "version: write it in quotes"),
    (manifest_yaml(kind="magic"), "kind: "),
    (manifest_yaml(kind="internal"), "kind: must be one of"),
    (manifest_yaml(namespace="builtin"), "namespace: 'builtin' is LMX's own"),
    (manifest_yaml(template=None), "template: a skill of kind prompt needs it"),
    (manifest_yaml(command=["ls"]), "command: a skill of kind prompt has none"),
    (manifest_yaml(path="x"), "path: a skill of kind prompt has none"),
    (manifest_yaml(template="{% if %}"), "template: line 1:"),
    (manifest_yaml(template="{{" + "(" * 5000 + "}}"), "template: "),
    (manifest_yaml(template="{{" + "9" * 5000 + "}}"), "template: "),
    (manifest_yaml(timeout_s=0), "timeout_s: "),
    (entry(entrypoint="run"), "entrypoint: must be 'module:function'"),
    (entry(entrypoint="a:b:c"), "entrypoint: must be 'module:function'"),
    (entry(permissions={"env": ["A-B"]}), "permissions.env: 'A-B'"),
    (entry(permissions={"env": ["LMX_SECURITY__ADMIN_KEY"]}), "is LMX's own"),
    (entry(permissions={"env": ["opta_admin_key"]}), "is LMX's own"),
    (entry(permissions={"files": [""]}), "permissions.files: "),
    (entry(input_schema={"type": "array"}), "input_schema.type: must be object"),
    (entry(input_schema={"type": "objekt"}), "input_schema.type: must be object"),
    (
        entry(input_schema={"properties": {"a": {"type": "strng"}}}),
        "input_schema.properties.a.type: ",
    ),
    (entry(input_schema={"properties": {"a": {"pattern": "("}}}), "input_schema.properties.a"),
    (entry(input_schema={"$ref": "http://127.0.0.1/x"}), "must start with '#/'"),
    (entry(input_schema={"$ref": "#/$defs/x"}), "'#/$defs/x' is not there"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_used_is_said_with_its_field(data: bytes, message: str) -> None:
    """A bad manifest gets one sentence that names the field."""
    error = error_of(data)
    assert message in error
    assert "\n" not in error


def command(*argv: str, **fields: Any) -> bytes:
    """A manifest of kind `command` with a property `a`."""
    schema = {"properties": {"a": {"type": "string"}}}
    return manifest_yaml(
        kind="command", template=None, command=list(argv), input_schema=schema, **fields
    )


def test_places_of_a_command_are_arguments() -> None:
    """A place names a property; the program is nobody's choice; braces can be written."""
    assert ("p", "{a}", "{{x}}") == parse(command("p", "{a}", "{{x}}")).command
    assert "no property 'b'" in error_of(command("p", "{b}"))
    assert "command[0]" in error_of(command("{a}"))
    assert "NUL" in error_of(command("p", "x\0"))


def http(**fields: Any) -> bytes:
    """A manifest of kind `http`."""
    call = {"url": "http://127.0.0.1:1/x", **fields.pop("http", {})}
    permissions = {"network": True, **fields.pop("permissions", {})}
    return manifest_yaml(kind="http", template=None, http=call, permissions=permissions, **fields)


def test_an_http_skill_says_that_it_uses_the_network() -> None:
    """Network and the variables of its headers must be among its permissions."""
    parse(http())
    parse(http(http={"headers": {"x": "Bearer ${TOKEN}"}}, permissions={"env": ["TOKEN"]}))
    assert "permissions.network" in error_of(http(permissions={"network": False}))
    assert "permissions.env does not have 'TOKEN'" in error_of(
        http(http={"headers": {"x": "${TOKEN}"}})
    )
    assert "control character" in error_of(http(http={"headers": {"x": "a\r\nb: c"}}))
    assert "http.url" in error_of(http(http={"url": "file:///etc/passwd"}))


def references(found: Any) -> list[str]:
    """Of skills that are not built in."""
    return [one.reference for one in found.manifests if one.namespace != "builtin"]


def write(path: Path, data: bytes) -> None:
    """Write a file in one step, so that every change is a change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(".fresh")
    fresh.write_bytes(data)
    fresh.replace(path)


def test_packaged_skills_are_all_good() -> None:
    """LMX's own manifests can be used, each."""
    found = ManifestFolders([]).read()
    assert () == found.broken
    assert [
        "add", "calculator", "current_time", "echo", "fetch_url", "read_file", "search_documents"
    ] == [one.name for one in found.manifests]  # fmt: skip


def test_a_folder_is_read_with_those_right_below(tmp_path: Path) -> None:
    """Manifests may lie in a folder each; hidden and other files are no manifests."""
    write(tmp_path / "a.yaml", manifest_yaml(name="a"))
    write(tmp_path / "b" / "skill.yml", manifest_yaml(name="b"))
    write(tmp_path / "b" / "deep" / "c.yaml", b"not read")
    write(tmp_path / ".hidden.yaml", b"not read")
    write(tmp_path / "notes.txt", b"not read")
    found = ManifestFolders([tmp_path, tmp_path / "missing"]).read()
    assert ["local/a@1.0.0", "local/b@1.0.0"] == references(found)
    assert () == found.broken


def test_a_half_written_file_keeps_its_skill(tmp_path: Path) -> None:
    """The last good manifest stays, with the error beside it, until the file is good again."""
    folders, path = ManifestFolders([tmp_path]), tmp_path / "a.yaml"
    write(path, manifest_yaml(name="a", description="one"))
    assert () == folders.read().broken
    write(path, b"schema: opta")
    found = folders.read()
    assert ["local/a@1.0.0"] == references(found)
    assert [str(path)] == [one.path for one in found.broken]
    write(path, manifest_yaml(name="a", description="two"))
    found = folders.read()
    assert ["two"] == [one.description for one in found.manifests if one.namespace == "local"]
    assert () == found.broken
    path.unlink()
    assert [] == references(folders.read())


def test_a_file_that_never_was_good_breaks_nothing(tmp_path: Path) -> None:
    """It is listed with its error, and the others are skills."""
    write(tmp_path / "a.yaml", b"schema: x\n")
    write(tmp_path / "b.yaml", manifest_yaml(name="b"))
    found = ManifestFolders([tmp_path]).read()
    assert ["local/b@1.0.0"] == references(found)
    assert [f"schema: must be {SCHEMA_ID}"] == [one.error for one in found.broken]


def test_the_first_of_two_same_skills_wins(tmp_path: Path) -> None:
    """The later file is listed with the name of the earlier one."""
    write(tmp_path / "a.yaml", manifest_yaml(description="first"))
    write(tmp_path / "b.yaml", manifest_yaml(description="second"))
    found = ManifestFolders([tmp_path]).read()
    assert ["first"] == [one.description for one in found.manifests if one.namespace == "local"]
    assert [str(tmp_path / "b.yaml")] == [one.path for one in found.broken]
    assert "a.yaml" in found.broken[0].error


def test_what_is_no_readable_file_is_listed(tmp_path: Path) -> None:
    """A pipe, a folder with such a name, links to nowhere and a huge file end nothing."""
    os.mkfifo(tmp_path / "a-pipe.yaml")
    (tmp_path / "b-folder.yaml").mkdir()
    (tmp_path / "c-link.yaml").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "d-huge.yaml", b"#" * (MAX_MANIFEST_BYTES + 1))
    write(tmp_path / "e.yaml", manifest_yaml(name="e"))
    (tmp_path / "f").symlink_to(tmp_path / "f")
    found = ManifestFolders([tmp_path]).read()
    assert ["local/e@1.0.0"] == references(found)
    assert ["is not a file", "is not a file", "No such file or directory"] == [
        one.error for one in found.broken[:3]
    ]
    assert "more than" in found.broken[3].error


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are UTF-8")
def test_names_that_are_no_text_are_told_as_text(tmp_path: Path) -> None:
    """A list with such a file in it can still be sent; a skill in such a folder is refused."""
    folder = tmp_path / os.fsdecode(b"\xff")
    write(folder / "good.yaml", entry(permissions={"files": ["data"]}))
    write(folder / os.fsdecode(b"\xfe.yaml"), b"name: 5")
    write(tmp_path / os.fsdecode(b"\xfd.yaml"), manifest_yaml(name="fine"))
    found = ManifestFolders([tmp_path]).read()
    assert ["local/fine@1.0.0"] == references(found)
    assert ["\ufffd/good.yaml", "\ufffd/\ufffd.yaml"] == [
        one.path.removeprefix(f"{tmp_path}/") for one in found.broken
    ]
    assert "UTF-8" in found.broken[0].error


def test_a_link_to_a_manifest_counts_from_where_it_leads(tmp_path: Path) -> None:
    """Paths in it start in the folder of the file itself."""
    write(tmp_path / "project" / "skill.yaml", entry())
    skills = tmp_path / "skills"
    skills.mkdir()
    (skills / "a.yaml").symlink_to(tmp_path / "project" / "skill.yaml")
    found = ManifestFolders([skills]).read()
    assert [str(tmp_path / "project")] == [
        one.path for one in found.manifests if one.namespace == "local"
    ]


def test_a_thousand_manifests_are_read_once(tmp_path: Path) -> None:
    """A second look gives the very same values without reading any file; too many are told."""
    for number in range(1000):
        (tmp_path / f"{number}.yaml").write_bytes(manifest_yaml(name=f"s{number}"))
    folders = ManifestFolders([tmp_path])
    first, second = folders.read(), folders.read()
    assert 1000 == len(references(first))
    assert all(one is two for one, two in zip(first.manifests, second.manifests, strict=True))
    for number in range(MAX_FILES):
        (tmp_path / f"more-{number}.yaml").touch()
    assert "the others are not read" in folders.read().broken[0].error
