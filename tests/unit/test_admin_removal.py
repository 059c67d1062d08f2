"""Deleting models: only what is LMX's to delete, whole, and never through a link."""

import os
from pathlib import Path

import pytest

from lmx.catalog.removal import plan_removal, remove
from lmx.errors import NotDeletable


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the user's, in which everything is looked for."""
    home = tmp_path / "user"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return home


def write(path: Path, size: int) -> Path:
    """A file of so many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def delete(path: Path, home: Path, *folders: str) -> int:
    """Plan and do."""
    return remove(plan_removal(path, home, folders))


def test_a_directory_goes_whole(tmp_path: Path) -> None:
    """With its publisher's folder, if that is empty then; its size is told."""
    model = tmp_path / "models" / "org" / "name"
    write(model / "config.json", 10)
    write(model / "deep" / "model.safetensors", 1000)
    assert 1010 == delete(model, tmp_path)
    assert [] == list((tmp_path / "models").iterdir())


def test_neighbours_stay(tmp_path: Path) -> None:
    """Other models of the publisher, and other files beside a GGUF file."""
    gone = write(tmp_path / "models" / "org" / "a-q4_0.gguf", 5)
    kept = write(tmp_path / "models" / "org" / "a-q8_0.gguf", 7)
    assert 5 == delete(gone, tmp_path)
    assert (False, True) == (gone.exists(), kept.exists())


def test_a_split_file_goes_with_all_its_parts(tmp_path: Path) -> None:
    """Missing ones are no obstacle: what is incomplete can be deleted, too."""
    folder = tmp_path / "models"
    first = write(folder / "m-00001-of-00003.gguf", 5)
    write(folder / "m-00003-of-00003.gguf", 7)
    assert 12 == delete(first, tmp_path)
    assert [] == list(folder.iterdir())


def test_a_repository_of_the_cache_goes_whole(tmp_path: Path, user: Path) -> None:
    """Snapshots are links to blobs: without these nothing would come free."""
    repository = user / "hf" / "hub" / "models--org--name"
    blob = write(repository / "blobs" / "abc", 1000)
    snapshot = repository / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    other = write(user / "hf" / "hub" / "models--org--other" / "blobs" / "def", 1)
    assert 1000 == delete(snapshot, tmp_path)
    assert (False, True) == (repository.exists(), other.exists())


def test_an_empty_cache_entry_goes(tmp_path: Path, user: Path) -> None:
    """A download that ended before its first revision."""
    repository = user / "hf" / "hub" / "models--org--name"
    write(repository / "blobs" / "abc.incomplete", 9)
    assert 9 == delete(repository, tmp_path)
    assert not repository.exists()


@pytest.mark.parametrize("folder", ["user/models", "extra"])
def test_the_users_folders_are_deleted_in(tmp_path: Path, folder: str) -> None:
    """Their own one, and those they configured."""
    model = tmp_path / folder / "name"
    write(model / "config.json", 1)
    assert 1 == delete(model, tmp_path, str(tmp_path / "extra"))


@pytest.mark.parametrize(
    "place", ["elsewhere/name", "user/.lmstudio/models/name", "models", "models/../secret"]
)
def test_nothing_else_is_deleted(tmp_path: Path, place: str) -> None:
    """Neither other programs' models nor the folder of models itself."""
    write(tmp_path / "models" / "m" / "config.json", 1)
    write(tmp_path / "secret" / "config.json", 1)
    path = tmp_path / place
    write(path / "config.json", 1)
    with pytest.raises(NotDeletable):
        delete(path, tmp_path)
    assert (path / "config.json").exists()


def test_another_programs_folder_may_be_configured(tmp_path: Path, user: Path) -> None:
    """Who names it has said that it is theirs."""
    model = user / ".lmstudio" / "models" / "org" / "name"
    write(model / "config.json", 3)
    assert 3 == delete(model, tmp_path, "~/.lmstudio/models")


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """A model on another disk is linked to: only the link is ours."""
    real = tmp_path / "disk" / "name"
    weights = write(real / "model.safetensors", 100)
    link = tmp_path / "models" / "name"
    link.parent.mkdir()
    link.symlink_to(real)
    assert 0 == delete(link, tmp_path)
    assert (False, True) == (link.is_symlink(), weights.exists())


def test_a_link_inside_a_model_is_not_followed(tmp_path: Path) -> None:
    """What it leads to is not counted and not deleted."""
    weights = write(tmp_path / "disk" / "model.safetensors", 100)
    model = tmp_path / "models" / "name"
    write(model / "config.json", 4)
    (model / "model.safetensors").symlink_to(weights)
    (model / "more").symlink_to(weights.parent)
    assert 4 == delete(model, tmp_path)
    assert weights.exists()


def test_a_link_on_the_way_leads_out(tmp_path: Path) -> None:
    """A publisher's folder that is a link is outside, whatever its path looks like."""
    model = write(tmp_path / "disk" / "name" / "config.json", 1).parent
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "org").symlink_to(model.parent)
    with pytest.raises(NotDeletable):
        delete(tmp_path / "models" / "org" / "name", tmp_path)
    assert model.exists()


def test_bytes_that_another_name_keeps_are_not_free(tmp_path: Path) -> None:
    """A hard link outside keeps the content; two inside count once."""
    model = tmp_path / "models" / "name"
    inside = write(model / "a", 10)
    os.link(inside, model / "b")
    os.link(write(model / "c", 100), tmp_path / "kept")
    assert 10 == delete(model, tmp_path)


def test_what_would_go_is_known_before(tmp_path: Path) -> None:
    """A loaded model's files are recognised inside, and not beside."""
    model = tmp_path / "models" / "name"
    write(model / "config.json", 1)
    removal = plan_removal(model, tmp_path)
    assert removal.holds(model)
    assert removal.holds(model / "config.json")
    assert not removal.holds(tmp_path / "models" / "name2")
