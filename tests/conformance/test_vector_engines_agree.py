"""One model, two engines: llama.cpp answers for a file what MLX answers for the directory."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf import PoolingType

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.bert_gguf import write_bert_gguf
from tests.conformance.vector_checks import TEXTS, rows_of
from tests.tiny_vectors import build_tiny_bert, build_tiny_cross_encoder, write_modules

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

LEAST_COSINE, MOST_OFF = 0.9999, 2e-3


def load(engine: str, source: Path, purpose: Purpose) -> LoadedVectors:
    """A model on one of the engines."""
    loaded = load_engine(Load(engine, str(source), 4, purpose=purpose))
    assert isinstance(loaded, LoadedVectors)
    return loaded


def both(directory: Path, pooling: PoolingType, purpose: Purpose) -> list[LoadedVectors]:
    """The directory on MLX, and its conversion on llama.cpp."""
    path = write_bert_gguf(directory, directory.with_suffix(".gguf"), pooling)
    return [load("mlx", directory, purpose), load("llama", path, purpose)]


@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.CLS])
def test_vectors_agree(tmp_path: Path, pooling: PoolingType) -> None:
    """The same ids, and the same vectors as far as half precision goes."""
    directory = build_tiny_bert(tmp_path / "bert")
    write_modules(directory, pooling=pooling.name.lower(), is_normalised=True, max_tokens=48)
    engines = both(directory, pooling, "embedding")
    (mlx_rows, llama_rows) = (rows_of(loaded, limit=48) for loaded in engines)
    assert [row.ids for row in mlx_rows] == [row.ids for row in llama_rows]
    ours, theirs = (loaded.engine.compute(llama_rows) for loaded in engines)
    assert (ours * theirs).sum(axis=1).min() >= LEAST_COSINE
    assert len(TEXTS) == len(ours)


def test_scores_agree_but_for_the_segment(tmp_path: Path) -> None:
    """Rows are the same, and scores are where the second segment means what the first does."""
    directory = make_segments_equal(build_tiny_cross_encoder(tmp_path / "cross", "bert"))
    engines = both(directory, PoolingType.RANK, "reranking")
    mlx_rows, llama_rows = (rows_of(loaded) for loaded in engines)
    assert [row.ids for row in mlx_rows] == [row.ids for row in llama_rows]
    ours, theirs = (
        loaded.engine.compute(rows)
        for loaded, rows in zip(engines, (mlx_rows, llama_rows), strict=True)
    )
    assert np.abs(ours - theirs).max() <= MOST_OFF
    assert ours.max() - ours.min() > 20 * MOST_OFF


def make_segments_equal(directory: Path) -> Path:
    """Give the second segment the first one's vector."""
    path = directory / "model.safetensors"
    weights = mx.load(str(path))
    assert isinstance(weights, dict)
    name = "bert.embeddings.token_type_embeddings.weight"
    weights[name] = mx.broadcast_to(weights[name][:1], weights[name].shape)
    mx.eval(weights)
    mx.save_safetensors(str(path), weights, metadata={"format": "pt"})
    assert json.loads((directory / "config.json").read_text())["type_vocab_size"] == len(
        weights[name]
    )
    return directory
