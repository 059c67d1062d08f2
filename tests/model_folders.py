"""Folders that look like those of models, for tests that find them."""

import json
from pathlib import Path

CONFIG = {"model_type": "llama", "max_position_embeddings": 512, "torch_dtype": "float16"}


def write(path: Path, content: str | bytes | dict[str, object] = b"") -> Path:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def make_mlx(path: Path, **config: object) -> Path:
    """An MLX directory of 200 bytes of weights."""
    write(path / "config.json", CONFIG | config)
    write(path / "model.safetensors", bytes(200))
    return path


def make_repository(user: Path, repository: str, names: tuple[str, ...] = ()) -> Path:
    """A repository in the Hugging Face cache; returns its main revision."""
    folder = user / ".cache/huggingface/hub" / ("models--" + repository.replace("/", "--"))
    write(folder / "refs/main", "abc")
    revision = folder / "snapshots/abc"
    revision.mkdir(parents=True)
    blob = write(folder / "blobs/123", bytes(100))
    write(folder / "blobs/456", CONFIG)
    for name in names:
        target = "456" if name == "config.json" else blob.name
        (revision / name).symlink_to(f"../../blobs/{target}")
    return revision
