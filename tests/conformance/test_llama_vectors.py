"""llama.cpp keeps the contract of vectors and scores, on every kind of model and pooling."""

from pathlib import Path

import pytest
from gguf import PoolingType

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.bert_gguf import write_bert_gguf
from tests.conformance.vector_checks import VECTOR_CHECKS, VectorMaker
from tests.tiny_gguf import TinyLlama
from tests.tiny_vector_gguf import TinyQwen3, tiny_reranker, write_cross_encoder, write_t5_encoder
from tests.tiny_vectors import build_tiny_bert

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

KINDS: dict[str, Purpose] = {
    "bert-mean": "embedding",
    "bert-cls": "embedding",
    "qwen3-last": "embedding",
    "t5-mean": "embedding",
    "llama-embed": "embedding",  # not causal, and with a cache
    "bert-rank": "reranking",
    "qwen3-rank": "reranking",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind; they are only read."""
    folder = tmp_path_factory.mktemp("vectors")
    bert = build_tiny_bert(folder / "bert")
    return {
        "bert-mean": write_bert_gguf(bert, folder / "mean.gguf", PoolingType.MEAN),
        "bert-cls": write_bert_gguf(bert, folder / "cls.gguf", PoolingType.CLS),
        "qwen3-last": TinyQwen3().write(folder / "last.gguf"),
        "t5-mean": write_t5_encoder(folder / "t5.gguf"),
        "llama-embed": TinyLlama(architecture="llama-embed").write(folder / "embed.gguf"),
        "bert-rank": write_cross_encoder(folder / "rank.gguf"),
        "qwen3-rank": tiny_reranker().write(folder / "yes.gguf"),
    }


@pytest.fixture(params=KINDS)
def maker(files: dict[str, Path], request: pytest.FixtureRequest) -> VectorMaker:
    """Loads one of them."""
    kind = str(request.param)
    load = Load("llama", str(files[kind]), max_sequences=4, purpose=KINDS[kind])

    def make() -> LoadedVectors:
        loaded = load_engine(load)
        assert isinstance(loaded, LoadedVectors)
        return loaded

    return make


@pytest.mark.parametrize("check", VECTOR_CHECKS, ids=lambda check: check.__name__)
def test_llama_keeps_the_contract(maker: VectorMaker, check: object) -> None:
    """Every part of the contract of vectors holds for llama.cpp."""
    assert callable(check)
    check(maker)
