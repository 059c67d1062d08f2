"""Parts of files: they grow, are verified, and take their place together."""

import hashlib
from pathlib import Path

from lmx.jobs.parts import PartFile, is_in_place, is_whole, publish
from lmx.protocol.jobs import PlannedFile
from tests.hub_server import git_sha1

CONTENT = bytes(range(256)) * 20


def planned(path: str = "model.safetensors", content: bytes = CONTENT) -> PlannedFile:
    """A file as the hub announces it."""
    return PlannedFile(path, len(content), sha256=hashlib.sha256(content).hexdigest())


def ignore(_count: int) -> None:
    """Nobody counts."""


def fill(directory: Path, file: PlannedFile, content: bytes = CONTENT) -> None:
    """Have a file arrive whole."""
    part = PartFile(directory, file)
    part.open(ignore)
    part.append(content)
    assert part.is_right
    part.finish()


def test_a_part_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its length and digest are those of all of it, and reading it again is counted."""
    first = PartFile(tmp_path, planned())
    first.open(ignore)
    first.append(CONTENT[:1000])
    first.close()
    counted: list[int] = []
    second = PartFile(tmp_path, planned())
    second.open(counted.append)
    assert (1000, 1000, False) == (second.size, sum(counted), second.is_full)
    second.append(CONTENT[1000:])
    assert second.is_right
    second.finish()
    assert is_whole(tmp_path, planned())


def test_a_wrong_content_is_seen(tmp_path: Path) -> None:
    """Of the right length but not right; begun again, it can still become so."""
    part = PartFile(tmp_path, planned())
    part.open(ignore)
    part.append(b"x" + CONTENT[1:])
    assert (True, False) == (part.is_full, part.is_right)
    part.restart()
    part.append(CONTENT)
    assert part.is_right
    part.close()


def test_a_part_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    """It belongs to another content."""
    (tmp_path / "model.safetensors.part").write_bytes(CONTENT + b"x")
    part = PartFile(tmp_path, planned())
    part.open(ignore)
    assert 0 == part.size
    part.close()


def test_small_files_are_verified_as_git_names_them(tmp_path: Path) -> None:
    """Of those the hub has no SHA-256."""
    file = PlannedFile("config.json", 2, git_sha1=git_sha1(b"{}"))
    fill(tmp_path, file, b"{}")
    assert is_whole(tmp_path, file)


def test_nothing_looks_like_a_model_before_all_is_whole(tmp_path: Path) -> None:
    """Files carry their names only once they are published."""
    fill(tmp_path / "p", planned())
    fill(tmp_path / "p", planned("config.json"))
    assert {".whole"} == {path.suffix for path in (tmp_path / "p").iterdir()}


def test_a_new_directory_appears_whole(tmp_path: Path) -> None:
    """The directory of parts itself takes its place."""
    files = [planned(), planned("config.json"), planned("1_Pooling/config.json")]
    for file in files:
        fill(tmp_path / "p", file)
    publish(tmp_path / "p", tmp_path / "org/name", files, weights={"model.safetensors"})
    assert not (tmp_path / "p").exists()
    assert all(is_in_place(tmp_path / "org/name", file, ignore) for file in files)


def test_publishing_goes_on_after_it_was_cut(tmp_path: Path) -> None:
    """Files that carry their names already count as whole."""
    files = [planned(), planned("config.json")]
    for file in files:
        fill(tmp_path / "p", file)
    (tmp_path / "p/config.json.whole").rename(tmp_path / "p/config.json")
    assert all(is_whole(tmp_path / "p", file) for file in files)
    publish(tmp_path / "p", tmp_path / "name", files, weights=set())
    assert all(is_in_place(tmp_path / "name", file, ignore) for file in files)


def test_what_is_there_is_completed(tmp_path: Path) -> None:
    """Other files stay; weights of another revision go, for they would be loaded, too."""
    target = tmp_path / "name"
    target.mkdir()
    for name in ("notes.txt", "model-00001-of-00002.safetensors", "config.json"):
        (target / name).write_bytes(b"old")
    files = [planned(), planned("config.json")]
    for file in files:
        fill(tmp_path / "p", file)
    publish(tmp_path / "p", target, files, weights={"model.safetensors"})
    assert {"notes.txt", "model.safetensors", "config.json"} == {p.name for p in target.iterdir()}
    assert CONTENT == (target / "config.json").read_bytes()


def test_weights_that_were_not_asked_for_stay(tmp_path: Path) -> None:
    """Where they belong to the same revision; and so do those beside a configuration alone."""
    target = tmp_path / "name"
    target.mkdir()
    (target / "model-00002-of-00002.safetensors").write_bytes(b"kept")
    first = planned("model-00001-of-00002.safetensors")
    fill(tmp_path / "p", first)
    both = {first.path, "model-00002-of-00002.safetensors"}
    publish(tmp_path / "p", target, [first], weights=both)
    assert both == {path.name for path in target.iterdir()}


def test_only_the_same_content_is_in_place(tmp_path: Path) -> None:
    """Another of the same length is not."""
    (tmp_path / "model.safetensors").write_bytes(b"x" + CONTENT[1:])
    assert not is_in_place(tmp_path, planned(), ignore)
    assert not is_in_place(tmp_path / "nowhere", planned(), ignore)
