"""The MLX engine of vectors and scores keeps its contract, on a tiny model of every kind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.conformance.vector_checks import VECTOR_CHECKS, VectorMaker, check_vectors
from tests.tiny_decoders import build_tiny_embedder, build_tiny_reranker
from tests.tiny_vectors import (
    build_tiny_bert,
    build_tiny_cross_encoder,
    build_tiny_modernbert,
    build_tiny_xlm_roberta,
)

Builder = Callable[[Path], Path]
KINDS: dict[str, tuple[Builder, Purpose]] = {
    "bert": (build_tiny_bert, "embedding"),
    "xlm-roberta": (build_tiny_xlm_roberta, "embedding"),
    "modernbert": (build_tiny_modernbert, "embedding"),
    "decoder": (build_tiny_embedder, "embedding"),
    "bert pairs": (partial(build_tiny_cross_encoder, kind="bert"), "reranking"),
    "xlm-roberta pairs": (partial(build_tiny_cross_encoder, kind="xlm-roberta"), "reranking"),
    "modernbert pairs": (partial(build_tiny_cross_encoder, kind="modernbert"), "reranking"),
    "generative": (build_tiny_reranker, "reranking"),
}


@pytest.fixture(scope="module", params=KINDS)
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VectorMaker:
    """Loads a tiny model of one kind; the directory is only read."""
    build, purpose = KINDS[request.param]
    directory = build(tmp_path_factory.mktemp("tiny"))

    def make() -> LoadedVectors:
        loaded = load_engine(Load("mlx", str(directory), 8, purpose=purpose))
        assert isinstance(loaded, LoadedVectors)
        return loaded

    return make


@pytest.mark.parametrize("check", VECTOR_CHECKS, ids=lambda check: check.__name__)
def test_mlx_keeps_the_contract(maker: VectorMaker, check: object) -> None:
    """Every part of the contract holds for every kind of model."""
    assert callable(check)
    check(maker)


def test_all_checks_run_in_one_call(maker: VectorMaker) -> None:
    """`check_vectors` is the contract as one call."""
    check_vectors(maker)
