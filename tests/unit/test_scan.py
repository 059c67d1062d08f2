"""The inventory lists what is on disk and says what is wrong with it."""

import json
import os
import time
from pathlib import Path

import pytest

from lmx.catalog.gguf_glance import GLANCE_BYTES
from lmx.catalog.inventory import InventoryRow
from lmx.catalog.scan import GROWING_S, Inventory
from tests.model_folders import CONFIG, make_mlx, make_repository, write
from tests.raw_gguf import ARRAY, STRING, RawGguf, array, entry, string, write_split

NOW_S = 2_000_000_000.0
ENTRIES = 10_000
SECONDS = 10.0  # of the processor, on a slow machine; a fast one takes a fifth


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home below which every place is; the working directory is elsewhere."""
    for name in ("user", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "user"


@pytest.fixture
def home(user: Path) -> Path:
    """LMX's home."""
    return user / "lmx"


def rows(home: Path, *folders: str) -> dict[str, InventoryRow]:
    """A fresh scan by id; no id stands twice."""
    found = Inventory(home, folders, lambda: NOW_S).scan().rows
    by_id = {row.id: row for row in found}
    assert len(found) == len(by_id)
    return by_id


def only(home: Path) -> InventoryRow:
    """The one row of a fresh scan."""
    (row,) = rows(home).values()
    return row


def test_nothing_is_no_problem(home: Path) -> None:
    """None of the folders exists: no rows, and nothing to complain about."""
    scan = Inventory(home).scan()
    assert ((), ()) == (scan.rows, scan.problems)


def test_an_mlx_directory(home: Path) -> None:
    """What its configuration says, and parameters by the weights' bytes."""
    path = make_mlx(home / "models/org/m")
    row = only(home)
    assert ("org/m", path, "mlx", "complete", "") == (
        row.id,
        row.path,
        row.format,
        row.status,
        row.reason,
    )
    assert ("float16", "llama", 100, 512, "generation") == (
        row.quantisation,
        row.architecture,
        row.parameter_count,
        row.context_tokens,
        row.purpose,
    )
    assert sum(file.stat().st_size for file in path.iterdir()) == row.size_bytes
    assert max(file.stat().st_mtime for file in path.iterdir()) == row.modified_at


def test_an_index_counts_parameters_and_names_shards(home: Path) -> None:
    """A shard that it names and that is not there makes the model incomplete."""
    path = make_mlx(home / "models/org/m")
    index = {"metadata": {"total_parameters": 77}, "weight_map": {"a": "model.safetensors"}}
    write(path / "model.safetensors.index.json", index)
    assert 77 == only(home).parameter_count
    index["weight_map"] = {str(i): f"model-{i}.safetensors" for i in range(5)}
    write(path / "model.safetensors.index.json", index)
    row = only(home)
    expected = "model-0.safetensors, model-1.safetensors, model-2.safetensors and 2 more"
    assert ("incomplete", f"it lacks {expected}") == (row.status, row.reason)


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ({"config.json": "{", "model.safetensors": ""}, "unreadable", "config.json is no JSON"),
        ({"config.json": "[]", "model.safetensors": ""}, "unreadable", "no JSON object"),
        ({"config.json": "[" * 10**5, "model.safetensors": ""}, "unreadable", "no JSON"),
        ({"config.json": b"\xff", "model.safetensors": ""}, "unreadable", "no JSON"),
        ({"config.json": '{"model_type": "x"}'}, "incomplete", "no weights"),
        ({"config.json": '{"model_type": "x"}', "x.safetensors": ""}, "incomplete", "no weights"),
        (
            {
                "config.json": CONFIG,
                "model.safetensors": "",
                "model.safetensors.index.json": '{"weight_map": {"a": 1}}',
            },
            "unreadable",
            "does not say where the weights are",
        ),
        (
            {"config.json": CONFIG, "model.safetensors": "", "model-2.safetensors.part": ""},
            "incomplete",
            "a download into it has not finished",
        ),
        ({"model-Q4_K_M.gguf.part": ""}, "incomplete", "download has not finished"),
        ({"m.gguf": "no"}, "unreadable", "cut off before it says"),
        ({"m.gguf": "not a GGUF file at all"}, "unreadable", "no GGUF file"),
        ({"m.gguf": RawGguf().file()[:-1]}, "incomplete", "shorter than its header says"),
        ({"m-00002-of-00003.gguf": ""}, "incomplete", "1 of 3 parts"),
    ],
)
def test_what_is_wrong_is_told(
    home: Path, files: dict[str, str | bytes | dict[str, object]], status: str, reason: str
) -> None:
    """One row, whose reason says what is missing or cannot be read."""
    for name, content in files.items():
        write(home / "models/org/m" / name, content)
    row = only(home)
    assert status == row.status
    assert reason in row.reason


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{"},
        {"config.json": CONFIG | {"model_type": None}, "model.safetensors": ""},  # of images
        {"adapter_config.json": "{}", "adapters.safetensors": ""},
        {"mmproj-m-f16.gguf": RawGguf().file()},
        {"m.gguf": RawGguf().with_values({"general.type": "adapter"}).file()},
        {"m.gguf": RawGguf(tensors=()).file()},
        {"README.md": "a model"},
    ],
)
def test_what_is_no_model_is_left_out(
    home: Path, files: dict[str, str | bytes | dict[str, object]]
) -> None:
    """Parts of models, models of something else, and files of other programs."""
    for name, content in files.items():
        write(home / "models/org/m" / name, content)
    assert {} == rows(home)


@pytest.mark.parametrize("folder", [".hidden", "m.partial-123", "m.partial-123.old", "a/b/c/d/e"])
def test_folders_that_are_passed_over(home: Path, folder: str) -> None:
    """Hidden ones, LMX's own that are being written, and those too far down."""
    make_mlx(home / "models" / folder)
    assert {} == rows(home)


def test_configurations_with_infinities_are_read(home: Path) -> None:
    """Python writes them, and published models have them."""
    make_mlx(home / "models/m", time_step_limit=[0.0, float("inf")])
    assert "complete" == only(home).status


def test_a_gguf_file(home: Path) -> None:
    """Facts come from the head of the file; the id names the quantisation."""
    values = {"general.file_type": 15, "llama.context_length": 4096}
    path = RawGguf().with_values({**values}).write(home / "models/org/m-GGUF/m.Q4_K_M.gguf")
    row = only(home)
    assert ("org/m-GGUF@q4_k_m", path, "gguf", "complete") == (
        row.id,
        row.path,
        row.format,
        row.status,
    )
    assert ("Q4_K_M", "llama", 8, 4096, path.stat().st_size) == (
        row.quantisation,
        row.architecture,
        row.parameter_count,
        row.context_tokens,
        row.size_bytes,
    )


def large(label: str, data_bytes: int = 32) -> RawGguf:
    """A model with a vocabulary far longer than what is read at first."""
    words = array(STRING, [string("word" * 8)] * (4 * GLANCE_BYTES // 32))
    head = RawGguf(data_bytes=data_bytes).with_values({"general.size_label": label})
    return head.with_entries(entry("tokenizer.ggml.tokens", words, ARRAY))


def test_a_vocabulary_is_read_only_where_it_must_be(home: Path) -> None:
    """A plausible file counts by its label; one too short for it is read to the end of its head."""
    path = large("1K", 1000).write(home / "models/o/a-Q8_0.gguf")
    assert ("complete", 1000) == (only(home).status, only(home).parameter_count)
    large("8x7B").write(path)
    assert ("complete", 8) == (only(home).status, only(home).parameter_count)
    path.write_bytes(large("1M").file()[:-1])
    assert ("incomplete", 8) == (only(home).status, only(home).parameter_count)
    path.write_bytes(large("1M").file()[: 2 * GLANCE_BYTES])
    assert ("incomplete", 10**6) == (only(home).status, only(home).parameter_count)


def test_a_split_model_is_one_row(home: Path) -> None:
    """All its parts count; one that is missing or cut off makes it incomplete."""
    parts = write_split(home / "models/o/m/Q8_0", "m-Q8_0", 3)
    row = only(home)
    assert ("o/m@q8_0", parts[0], "complete", 24) == (
        row.id,
        row.path,
        row.status,
        row.parameter_count,
    )
    assert sum(part.stat().st_size for part in parts) == row.size_bytes
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    assert f"{parts[1].name} is shorter than its header says" == only(home).reason
    parts[1].unlink()
    assert ("incomplete", "it has 2 of 3 parts") == (only(home).status, only(home).reason)


def test_a_repository_in_the_cache(user: Path, home: Path) -> None:
    """Contents that two names link to count once."""
    names = ("config.json", "model.safetensors", "tokenizer.json")
    revision = make_repository(user, "org/m", names)
    row = only(home)
    assert ("org/m", revision, "complete") == (row.id, row.path, row.status)
    assert 100 + len(json.dumps(CONFIG)) == row.size_bytes


def test_unfinished_repositories(user: Path, home: Path) -> None:
    """Without a main revision, with a link to nothing, or with contents that are on their way."""
    names = ("config.json", "model.safetensors")
    folder = make_repository(user, "a/no-revision", names).parents[1]
    (folder / "refs/main").unlink()
    dangling = make_repository(user, "b/dangling", names)
    (dangling / "tokenizer.json").symlink_to("../../blobs/absent")
    hub = user / ".cache/huggingface/hub"
    for name, age_s in (("c/growing", GROWING_S / 2), ("d/stuck", 2 * GROWING_S)):
        blobs = make_repository(user, name, names).parents[1] / "blobs"
        blob = write(blobs / "789.incomplete")
        os.utime(blob, (NOW_S - age_s,) * 2)
    write(hub / "models--e--begun-GGUF/blobs/1.incomplete", bytes(10))
    found = rows(home)
    assert {
        "a/no-revision": "incomplete",
        "b/dangling": "incomplete",
        "c/growing": "downloading",
        "d/stuck": "incomplete",
        "e/begun-GGUF": "incomplete",
    } == {row.id: row.status for row in found.values()}
    assert "tokenizer.json" in found["b/dangling"].reason
    assert ("gguf", 10) == (found["e/begun-GGUF"].format, found["e/begun-GGUF"].size_bytes)


def test_links_in_a_circle(home: Path) -> None:
    """A folder that contains itself is looked at once."""
    make_mlx(home / "models/org/m")
    (home / "models/org/m/again").symlink_to(home / "models")
    (home / "models/org/self").symlink_to("self")
    assert ["org/m"] == list(rows(home))


def test_a_linked_model_is_listed(home: Path, tmp_path: Path) -> None:
    """A model elsewhere that a link makes part of a folder."""
    make_mlx(tmp_path / "disk/m")
    (home / "models").mkdir(parents=True)
    (home / "models/mine").symlink_to(tmp_path / "disk/m")
    assert home / "models/mine" == only(home).path


def test_configured_folders(home: Path, tmp_path: Path) -> None:
    """They are searched like the others; one that is not there is a problem."""
    make_mlx(tmp_path / "disk/org/m")
    scan = Inventory(home, (f"{tmp_path}/disk", f"{tmp_path}/absent", "~nobody/x")).scan()
    assert ["org/m"] == [row.id for row in scan.rows]
    assert 2 == len(scan.problems)
    assert f"{tmp_path}/absent" in scan.problems[0]


def test_names_that_are_no_text(home: Path) -> None:
    """An id could not be told to anybody: it is a problem and no row."""
    make_mlx(home / "models/good")
    try:
        make_mlx(Path(os.fsdecode(os.fsencode(home) + b"/models/\xff")))
    except OSError:
        pytest.skip("this file system takes only text")
    scan = Inventory(home).scan()
    assert ["good"] == [row.id for row in scan.rows]
    assert "not UTF-8" in scan.problems[0]
    scan.problems[0].encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_read(home: Path) -> None:
    """The others are listed all the same."""
    make_mlx(home / "models/good")
    closed = make_mlx(home / "models/closed")
    closed.chmod(0)
    scan = Inventory(home).scan()
    closed.chmod(0o700)
    assert ["good"] == [row.id for row in scan.rows]
    assert str(closed) in scan.problems[0]


def test_a_pipe_is_no_model(home: Path) -> None:
    """Opening one would wait for ever."""
    folder = make_mlx(home / "models/m")
    os.mkfifo(folder / "x.gguf")
    os.mkfifo(folder / "model.safetensors.index.json")
    assert "complete" == only(home).status


def test_a_second_scan_sees_changes(home: Path) -> None:
    """What is kept is what files said, and only while they stay as they were."""
    inventory = Inventory(home)
    path = RawGguf().write(home / "models/a.gguf")
    folder = make_mlx(home / "models/m")
    first = inventory.scan()
    assert first == inventory.scan()
    RawGguf().with_values({"llama.context_length": 99}).write(path)
    write(folder / "config.json", CONFIG | {"model_type": "qwen3"})
    by_id = {row.id: row for row in inventory.scan().rows}
    assert (99, "qwen3") == (by_id["a"].context_tokens, by_id["m"].architecture)
    path.unlink()
    assert ["m"] == [row.id for row in inventory.scan().rows]


def test_ten_thousand_models(user: Path, home: Path) -> None:
    """A third each of MLX directories, repositories and GGUF files, within the bound."""
    gguf = RawGguf().file()
    for index in range(ENTRIES // 3):
        make_mlx(home / f"models/org{index % 40}/m{index}")
        make_repository(user, f"org{index % 40}/r{index}", ("config.json", "model.safetensors"))
        write(user / f"models/org{index % 40}/g{index}/g-Q8_0.gguf", gguf)
    inventory = Inventory(home)
    seconds = []
    for _ in range(4):
        start = time.thread_time()
        scan = inventory.scan()
        seconds.append(time.thread_time() - start)
    assert ENTRIES // 3 * 3 == len(scan.rows)
    assert {"complete"} == {row.status for row in scan.rows}
    assert min(seconds[1:]) < seconds[0] < SECONDS
