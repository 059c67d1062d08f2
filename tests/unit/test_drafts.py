"""Which draft model a worker is told of, and the memory that is reserved for it."""

from pathlib import Path

from lmx.config import ModelSettings, Settings
from lmx.daemon.drafts import NOTHING, Draft, find_draft
from lmx.daemon.sources import Source
from tests.tiny_models import build_tiny_llama

MODEL = Source("mlx", "/m")


def settings(home: Path, **models: object) -> Settings:
    """With these settings of models."""
    return Settings(home=home, models=ModelSettings(**models))  # type: ignore[arg-type]


def test_models_without_one_get_nothing(tmp_path: Path) -> None:
    """Only the model that is named has a draft model, and only if drafts are wanted."""
    named = settings(tmp_path, draft={"m": "small"})
    assert NOTHING == find_draft(named, "other", MODEL, device="cpu")
    off = settings(tmp_path, draft={"m": "small"}, speculation=False)
    assert NOTHING == find_draft(off, "m", MODEL, device="cpu")
    vectors = Source("mlx", "/m", "embedding")
    assert NOTHING == find_draft(named, "m", vectors, device="cpu")


def test_its_memory_is_counted(tmp_path: Path) -> None:
    """Weights, and caches of one sequence."""
    path = build_tiny_llama(tmp_path / "small")
    found = find_draft(settings(tmp_path, draft={"m": str(path)}), "m", MODEL, device="cpu")
    assert str(path) == found.path
    assert (path / "model.safetensors").stat().st_size < found.size_bytes


def test_one_that_is_not_there_is_the_workers_to_tell(tmp_path: Path) -> None:
    """It does not keep the model from loading."""
    missing = str(tmp_path / "nowhere")
    found = find_draft(settings(tmp_path, draft={"m": missing}), "m", MODEL, device="cpu")
    assert Draft(missing) == found
    gguf = Source("llama", "/m.gguf")
    assert Draft(missing) == find_draft(
        settings(tmp_path, draft={"m": missing}), "m", gguf, device="cpu"
    )
