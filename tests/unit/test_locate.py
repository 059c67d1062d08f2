"""Models are found where they may be, and nowhere else."""

from pathlib import Path

import pytest

from lmx.catalog.locate import locate_directory, locate_gguf, locate_id
from lmx.errors import CorruptModel, ModelNotFound


def make_model(path: Path) -> Path:
    """A directory that looks like a model."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home below which every place is; the working directory is elsewhere."""
    user = tmp_path / "user"
    user.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return user


def test_a_directory_is_taken_as_given(tmp_path: Path) -> None:
    """A model directory is its own absolute path."""
    assert tmp_path / "m" == locate_directory(str(make_model(tmp_path / "m")))


def test_a_directory_below_home_is_found(places: Path) -> None:
    """A tilde means the user's home."""
    assert make_model(places / "m") == locate_directory("~/m")


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    """A path that does not exist is a `ModelNotFound` about ``model``."""
    with pytest.raises(ModelNotFound) as caught:
        locate_directory(str(tmp_path / "absent"))
    assert "model" == caught.value.param


def test_a_directory_without_config_is_corrupt(tmp_path: Path) -> None:
    """A directory that holds no model says so."""
    with pytest.raises(CorruptModel, match=r"config\.json"):
        locate_directory(str(tmp_path))


def test_a_gguf_file_is_taken_as_given(tmp_path: Path) -> None:
    """A file is its own absolute path; a directory of that name is no file."""
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").mkdir()
    assert tmp_path / "a.gguf" == locate_gguf(str(tmp_path / "a.gguf"))
    with pytest.raises(ModelNotFound):
        locate_gguf(str(tmp_path / "b.gguf"))


def test_the_order_of_places(places: Path, tmp_path: Path) -> None:
    """LMX's own models come before the user's, those before the Hugging Face cache."""
    home = tmp_path / "lmx"
    repository = places / ".cache/huggingface/hub/models--org--m"
    cached = make_model(repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc\n")
    assert cached == locate_id("org/m", home)
    users = make_model(places / "models/org/m")
    assert users == locate_id("org/m", home)
    own = make_model(home / "models/org/m")
    assert own == locate_id("org/m", home)


def test_the_cache_may_be_elsewhere(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``HF_HOME`` moves the Hugging Face cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    repository = tmp_path / "hf/hub/models--org--m"
    cached = make_model(repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    assert cached == locate_id("org/m", places)


@pytest.mark.usefixtures("places")
def test_a_relative_path_is_the_last_resort(tmp_path: Path) -> None:
    """A directory below the working directory is found by its relative path."""
    made = make_model(tmp_path / "work/some/model")
    assert made == locate_id("some/model", tmp_path / "lmx")


@pytest.mark.usefixtures("places")
def test_a_directory_without_config_is_passed_over(tmp_path: Path) -> None:
    """An empty directory of the right name is no model; the message names the places."""
    home = tmp_path / "lmx"
    (home / "models/org/m").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match="Hugging Face cache") as caught:
        locate_id("org/m", home)
    assert "model" == caught.value.param


@pytest.mark.usefixtures("places")
def test_an_id_does_not_lead_out_of_the_models_folder(tmp_path: Path) -> None:
    """Two dots in an id do not reach a model beside the models folder."""
    home = tmp_path / "lmx"
    make_model(home / "secret")
    (home / "models").mkdir()
    with pytest.raises(ModelNotFound):
        locate_id("../secret", home)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_what_the_system_refuses_is_unreadable(name: str, tmp_path: Path) -> None:
    """A path that the system does not even look at is a `CorruptModel`, whatever the kind."""
    path = str(tmp_path / name)
    for locate in (locate_directory, locate_gguf):
        with pytest.raises(CorruptModel, match="cannot be read"):
            locate(path)
    with pytest.raises(CorruptModel, match="cannot be read"):
        locate_id(name, tmp_path)
