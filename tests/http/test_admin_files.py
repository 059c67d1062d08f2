"""The inventory and deleting over HTTP: what is on disk is listed, and goes when told to."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
WEIGHTS_BYTES = 5000


class House(NamedTuple):
    """A daemon, and where it looks for models."""

    daemon: Daemon
    home: Path
    user: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with one fake model and a home of its own."""
    home = tmp_path_factory.mktemp("home")
    user = home / "user"
    own = {"HOME": str(user), "HF_HOME": str(user / "hf")}
    with shared_daemon(home, "fake:x", settings=own) as spawned:
        yield House(spawned, home, user)


def make_model(path: Path, *, is_whole: bool = True) -> Path:
    """What looks like an MLX directory from outside."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    if is_whole:
        (path / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))
    return path


def get(house: House, path: str) -> Any:
    """The document at a path."""
    with Connection(house.daemon) as connection:
        reply = connection.ask("GET", path)
    assert 200 == reply.status, reply.body
    return reply.json()


def delete(house: House, model_id: str) -> Reply:
    """Ask for a model to be deleted, with a JSON content type and no body."""
    with Connection(house.daemon) as connection:
        return connection.ask("DELETE", f"/admin/models/{model_id}", b"")


def codes(reply: Reply) -> tuple[int, str, str]:
    """The status and both codes of a refusal."""
    document = reply.json()
    return reply.status, document["code"], document["error"]["code"]


@pytest.mark.parametrize("encoded", ["org/name", "org%2Fname"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_is_deleted(house: House, encoded: str, *, is_whole: bool) -> None:
    """Complete or not; the answer says how much came free, and a second time there is none."""
    model = make_model(house.home / "models" / "org" / "name", is_whole=is_whole)
    size = sum(path.stat().st_size for path in model.iterdir())
    reply = delete(house, encoded)
    assert {"success": True, "model_id": "org/name", "freed_bytes": size} == reply.json()
    assert not model.exists()
    assert "org/name" not in [row["repo_id"] for row in get(house, "/admin/models/available")]
    assert (404, "not_found", "model-not-found") == codes(delete(house, encoded))


def test_models_on_disk_are_listed(house: House) -> None:
    """As a bare array, and beside what is loaded."""
    model = make_model(house.user / "models" / "listed")
    assert 404 == delete(house, "nobody").status  # looks at the disk anew
    (row,) = [row for row in get(house, "/admin/models/available") if row["repo_id"] == "listed"]
    assert (str(model), "mlx", "mlx") == (row["local_path"], row["backend"], row["format"])
    assert row["size_bytes"] >= WEIGHTS_BYTES
    assert row["downloaded_at"] > 1e9
    listed = {row["path"]: row for row in get(house, "/admin/models")["models"]}
    assert (False, None) == (listed["listed"]["loaded"], listed["listed"]["vram_gb"])
    assert listed["x"]["loaded"]
    assert 200 == delete(house, "listed").status


def test_a_loaded_model_is_not_deleted(house: House) -> None:
    """Its status is the one that clients understand."""
    assert (409, "conflict", "model_in_use") == codes(delete(house, "x"))


def test_other_programs_models_are_left_alone(house: House) -> None:
    """Loading them is fine; deleting them is for the program that has them."""
    model = make_model(house.user / ".lmstudio" / "models" / "org" / "theirs")
    reply = delete(house, "org/theirs")
    assert (409, "conflict", "not_deletable") == codes(reply)
    assert str(model) in reply.json()["error"]["message"]
    assert model.exists()


def test_a_repository_of_the_cache_goes_whole(house: House) -> None:
    """With the blobs that its snapshots link to."""
    repository = house.user / "hf" / "hub" / "models--org--cached"
    blobs = make_model(repository / "blobs")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    reply = delete(house, "org/cached")
    assert 200 == reply.status, reply.body
    assert reply.json()["freed_bytes"] >= WEIGHTS_BYTES
    assert not repository.exists()


@pytest.mark.parametrize("model_id", ["..%2F..%2Fuser", "%2Fetc", ".", "models", "org%00name"])
def test_nothing_is_deleted_but_models(house: House, model_id: str) -> None:
    """Names that lead elsewhere lead nowhere."""
    assert 404 == delete(house, model_id).status
    assert house.user.exists()


def test_a_model_that_cannot_be_loaded_says_so(house: House) -> None:
    """An incomplete one is unprocessable, whatever name it goes by."""
    model = make_model(house.home / "models" / "half", is_whole=False)
    reply = post(house.daemon, "/admin/models/load", model_id="half")
    assert (422, "corrupt-model", "corrupt-model") == codes(reply)
    shutil.rmtree(model)
