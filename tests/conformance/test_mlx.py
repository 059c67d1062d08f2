"""The MLX engine keeps the engine contract, shown on a random two-layer Llama."""

import pytest

from lmx.engines import load_engine as load
from lmx.engines.base import LoadedEngine
from lmx.protocol.messages import Load
from tests.conformance.driving import Maker
from tests.conformance.engine_checks import CHECKS, check_engine
from tests.tiny_models import build_tiny_llama


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads the tiny Llama; the directory is only read."""
    directory = build_tiny_llama(tmp_path_factory.mktemp("tiny"))

    def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
        return load(
            Load("mlx", str(directory), max_sequences, context_tokens, prefix_cache_bytes=32 << 20)
        )

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_mlx_keeps_the_contract(maker: Maker, check: object) -> None:
    """Every part of the engine contract holds for MLX."""
    assert callable(check)
    check(maker)


def test_all_checks_run_in_one_call(maker: Maker) -> None:
    """`check_engine` is the contract as one call, for engines outside this repository."""
    check_engine(maker)
