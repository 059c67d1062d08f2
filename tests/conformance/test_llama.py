"""The llama.cpp engine keeps the engine contract, shown on tiny random GGUF models."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from lmx.engines import load_engine as load
from lmx.engines.base import LoadedEngine
from lmx.protocol.messages import Load
from tests.conformance.driving import Maker
from tests.conformance.engine_checks import CHECKS
from tests.conformance.prefix_checks import PREFIX_CHECKS
from tests.tiny_gguf import TinyLlama
from tests.tiny_state_gguf import write_recurrent, write_windowed

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

Write = Callable[[Path], Path]


def maker_of(path: Path, kv_bits: int | None = None) -> Maker:
    """Loads this file, which is only read."""
    load_it = Load("llama", str(path), 1, kv_bits=kv_bits, prefix_cache_bytes=32 << 20)

    def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
        return load(replace(load_it, context_tokens=context_tokens, max_sequences=max_sequences))

    return make


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads the tiny Llama."""
    return maker_of(TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def maker_of_quantised(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads a tiny Llama with heads of 32, whose cache has 8 bits a value."""
    path = TinyLlama().with_wide_heads().write(tmp_path_factory.mktemp("wide") / "wide.gguf")
    return maker_of(path, kv_bits=8)


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


@pytest.mark.parametrize("check", PREFIX_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("write", [write_windowed, write_recurrent], ids=lambda w: w.__name__)
def test_other_state_keeps_the_contract(tmp_path: Path, write: Write, check: object) -> None:
    """Hits change nothing where layers look back only so far, or have no state but the last."""
    assert callable(check)
    check(maker_of(write(tmp_path / "tiny.gguf")))
