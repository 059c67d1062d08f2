"""Models are found where they may be, in the format that was meant, and nowhere else."""

from pathlib import Path

import pytest

from lmx.catalog.locate import Located, locate
from lmx.catalog.specs import parse_spec
from lmx.config import Backend
from lmx.errors import CorruptModel, ModelNotFound


def make_mlx(path: Path) -> Located:
    """A directory that looks like an MLX model."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").touch()
    return Located("mlx", path)


def make_gguf(path: Path) -> Located:
    """A file that is called a GGUF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return Located("gguf", path)


def find(text: str, home: Path, backend: Backend = "auto") -> Located:
    """What somebody's words lead to."""
    return locate(parse_spec(text, backend), home)


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


def cache_snapshot(hub: Path, repository: str) -> Path:
    """Where the Hugging Face cache keeps a repository's files."""
    folder = hub / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc\n")
    return folder / "snapshots/abc"


def test_a_directory_is_taken_as_given(tmp_path: Path) -> None:
    """A model directory is its own absolute path."""
    assert make_mlx(tmp_path / "m") == find(str(tmp_path / "m"), tmp_path)


def test_a_directory_below_home_is_found(places: Path) -> None:
    """A tilde means the user's home."""
    assert make_mlx(places / "m") == find("~/m", places)


@pytest.mark.parametrize("text", ["/absent/dir", "~nobody-of-this-name/m", "/absent/m.gguf"])
def test_a_missing_path_is_not_found(tmp_path: Path, text: str) -> None:
    """A path that does not exist is a `ModelNotFound` about ``model``."""
    with pytest.raises(ModelNotFound, match="there is no") as caught:
        find(text, tmp_path)
    assert "model" == caught.value.param


def test_a_directory_without_a_model_is_corrupt(tmp_path: Path) -> None:
    """A directory that holds no model, or half of one, says so."""
    with pytest.raises(CorruptModel, match=r"config\.json"):
        find(str(tmp_path), tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(CorruptModel, match=r"safetensors"):
        find(str(tmp_path), tmp_path)


@pytest.mark.parametrize("backend", ["auto", "mlx", "gguf"])
def test_a_gguf_file_is_taken_as_given(tmp_path: Path, backend: Backend) -> None:
    """A file is its own absolute path, whatever it becomes; a directory of that name is none."""
    made = make_gguf(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").mkdir()
    assert made == find(str(tmp_path / "a.gguf"), tmp_path, backend)
    with pytest.raises(ModelNotFound):
        find(str(tmp_path / "b.gguf"), tmp_path, backend)


def test_a_directory_of_gguf_files(tmp_path: Path) -> None:
    """The best file of a directory is taken, or the one that was named."""
    small, best = make_gguf(tmp_path / "d/m-Q2_K.gguf"), make_gguf(tmp_path / "d/m-Q4_K_M.gguf")
    assert best == find(f"{tmp_path}/d", tmp_path)
    assert small == find(f"{tmp_path}/d@q2_k", tmp_path)
    with pytest.raises(ModelNotFound, match=r"GGUF file Q8_0, but as .*Q4_K_M"):
        find(f"{tmp_path}/d@q8_0", tmp_path)


@pytest.mark.parametrize("spelling", ["{home}/models/org/m", "org/m"])
def test_a_backend_forces_the_format(places: Path, tmp_path: Path, spelling: str) -> None:
    """Both formats in one folder: MLX unless GGUF is asked for, by backend or by quantisation."""
    home = tmp_path / "lmx"
    text = spelling.format(home=home)
    mlx = make_mlx(home / "models/org/m")
    gguf = make_gguf(home / "models/org/m/m-Q8_0.gguf")
    assert mlx == find(text, home) == find(text, home, "mlx")
    assert gguf == find(text, home, "gguf") == find(text + "@Q8_0", home)


@pytest.mark.parametrize("spelling", ["{home}/models/org/m", "org/m"])
def test_the_other_format_is_told(places: Path, tmp_path: Path, spelling: str) -> None:
    """A model that is there in one format only is not found in the other, and the error says so."""
    home = tmp_path / "lmx"
    text = spelling.format(home=home)
    file = make_gguf(home / "models/org/m/m-Q8_0.gguf").path
    with pytest.raises(ModelNotFound, match=f"as MLX directory, but as {file}"):
        find(text, home, "mlx")
    file.unlink()
    made = make_mlx(home / "models/org/m").path
    with pytest.raises(ModelNotFound, match=f"as GGUF file, but as {made}"):
        find(text, home, "gguf")


def test_the_order_of_places(places: Path, tmp_path: Path) -> None:
    """LMX's own models come before the user's, those before the Hugging Face cache."""
    home = tmp_path / "lmx"
    snapshot = cache_snapshot(places / ".cache/huggingface/hub", "org/m")
    assert make_mlx(snapshot) == find("org/m", home)
    assert make_mlx(places / "models/org/m") == find("org/m", home)
    assert make_mlx(home / "models/org/m") == find("org/m", home)


def test_mlx_anywhere_comes_before_gguf(places: Path, tmp_path: Path) -> None:
    """From the last choice to the first: a bare file, a sibling folder, the folder, MLX."""
    home = tmp_path / "lmx"
    assert make_gguf(home / "models/org/m.gguf") == find("org/m", home)
    assert make_gguf(home / "models/org/m-GGUF/m-Q6_K.gguf") == find("org/m", home)
    snapshot = cache_snapshot(places / ".cache/huggingface/hub", "org/m")
    assert make_gguf(snapshot / "m-Q2_K.gguf") == find("org/m", home)
    assert make_mlx(places / "models/org/m") == find("org/m", home)
    assert Located("gguf", snapshot / "m-Q2_K.gguf") == find("org/m", home, "gguf")


def test_a_quantisation_is_looked_for_in_every_place(places: Path, tmp_path: Path) -> None:
    """A place that has another quantisation only is passed over."""
    home = tmp_path / "lmx"
    make_gguf(home / "models/org/m/m-Q4_K_M.gguf")
    wanted = make_gguf(places / "models/org/m-GGUF/m-Q8_0.gguf")
    assert wanted == find("org/m:Q8_0", home)
    with pytest.raises(ModelNotFound, match="Q6_K"):
        find("org/m:Q6_K", home)


def test_the_cache_may_be_elsewhere(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``HF_HOME`` moves the Hugging Face cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    made = make_mlx(cache_snapshot(tmp_path / "hf/hub", "org/m"))
    assert made == find("org/m", places)


@pytest.mark.usefixtures("places")
def test_a_relative_path_is_the_last_resort(tmp_path: Path) -> None:
    """A directory below the working directory is found by its relative path."""
    made = make_mlx(tmp_path / "work/some/model")
    assert made == find("some/model", tmp_path / "lmx")


@pytest.mark.usefixtures("places")
def test_a_directory_without_config_is_passed_over(tmp_path: Path) -> None:
    """An empty directory of the right name is no model; the message names the places."""
    home = tmp_path / "lmx"
    (home / "models/org/m").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match="Hugging Face cache") as caught:
        find("org/m", home)
    assert "model" == caught.value.param


@pytest.mark.usefixtures("places")
def test_a_directory_without_weights_is_told(tmp_path: Path) -> None:
    """Half a download is not taken for nothing."""
    home = tmp_path / "lmx"
    make_mlx(home / "models/org/m")
    (home / "models/org/m/model.safetensors").unlink()
    with pytest.raises(CorruptModel, match="safetensors"):
        find("org/m", home)


@pytest.mark.usefixtures("places")
def test_an_id_does_not_lead_out_of_the_models_folder(tmp_path: Path) -> None:
    """Two dots in an id do not reach a model beside the models folder."""
    home = tmp_path / "lmx"
    make_mlx(home / "secret")
    make_gguf(home / "models/x/../../secret.gguf")
    for text in ("x/../../secret", "x/../../secret@q8_0"):
        with pytest.raises(ModelNotFound):
            find(text, home)


@pytest.mark.parametrize("text", ["{}/" + "x" * 300, "{}/" + "x/" * 3000, "x" * 300, "x/" * 3000])
def test_what_the_system_refuses_is_unreadable(text: str, tmp_path: Path) -> None:
    """A path that the system does not even look at is a `CorruptModel`, whatever the kind."""
    for suffix in ("", ".gguf"):
        with pytest.raises(CorruptModel, match="cannot be read"):
            find(text.format(tmp_path) + suffix, tmp_path)
