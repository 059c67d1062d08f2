"""The llama.cpp engine keeps the engine contract, shown on a random two-layer Llama as GGUF."""

import pytest

from lmx.engines import load_engine as load
from lmx.engines.base import LoadedEngine
from lmx.protocol.messages import Load
from tests.conformance.driving import Maker
from tests.conformance.engine_checks import CHECKS
from tests.tiny_gguf import TinyLlama

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads the tiny Llama; the file is only read."""
    path = TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")

    def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
        return load(
            Load("llama", str(path), max_sequences, context_tokens, prefix_cache_bytes=32 << 20)
        )

    return make


@pytest.fixture(scope="module")
def maker_of_quantised(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads a tiny Llama with heads of 32, whose cache has 8 bits a value."""
    path = TinyLlama().with_wide_heads().write(tmp_path_factory.mktemp("wide") / "wide.gguf")

    def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
        return load(Load("llama", str(path), max_sequences, context_tokens, kv_bits=8))

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_llama_keeps_the_contract(maker: Maker, check: object) -> None:
    """Every part of the engine contract holds for llama.cpp."""
    assert callable(check)
    check(maker)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_quantised_cache_keeps_the_contract(maker_of_quantised: Maker, check: object) -> None:
    """Every part of it, among them that neighbours change nothing."""
    assert callable(check)
    check(maker_of_quantised)
