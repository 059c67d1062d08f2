"""The MLX engine keeps the engine contract, shown on a random two-layer Llama."""

import msgspec
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


@pytest.fixture(scope="module")
def maker_of_quantised(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads a tiny Llama with heads of 32, whose cache has 8 bits a value."""
    directory = build_tiny_llama(tmp_path_factory.mktemp("wide"), head_dim=32)

    def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
        command = Load("mlx", str(directory), max_sequences, context_tokens, kv_bits=8)
        return load(msgspec.structs.replace(command, prefix_cache_bytes=32 << 20))

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_mlx_keeps_the_contract(maker: Maker, check: object) -> None:
    """Every part of the engine contract holds for MLX."""
    assert callable(check)
    check(maker)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_quantised_cache_keeps_the_contract(maker_of_quantised: Maker, check: object) -> None:
    """Every part of it, among them that neighbours change nothing."""
    assert callable(check)
    check(maker_of_quantised)


def test_all_checks_run_in_one_call(maker: Maker) -> None:
    """`check_engine` is the contract as one call, for engines outside this repository."""
    check_engine(maker)
