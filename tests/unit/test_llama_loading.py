"""How large a cache llama.cpp gets, and how many threads."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.catalog.gguf_header import read_header  # noqa: E402
from lmx.catalog.kv_cache import CacheChoice  # noqa: E402
from lmx.engines import load_engine  # noqa: E402
from lmx.engines.llama.threads import choose_threads, physical_cores, quota_cores  # noqa: E402
from lmx.errors import CorruptModel, UnsupportedModel  # noqa: E402
from lmx.protocol.messages import Load  # noqa: E402
from lmx.protocol.values import GgufOptions  # noqa: E402
from tests.tiny_gguf import TinyLlama  # noqa: E402


def test_a_load_reports_what_it_made(tmp_path: Path) -> None:
    """Cache growth is measured: two layers of two heads of 16, keys and values, half precision."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    options = GgufOptions(kv_cache_bytes=4096 * 300, use_mmap=False, threads=1)
    loaded = load_engine(Load("llama", str(path), 8, gguf=options))
    info = loaded.engine.info
    memory = loaded.engine.memory()
    loaded.engine.close()
    assert 256 <= info.kv_bytes_per_token <= 300
    assert info.context_tokens == 512
    assert info.engine == "llama"
    assert memory.active_bytes > info.weight_bytes > 0


def test_a_context_that_does_not_fit_is_shortened_and_said(tmp_path: Path) -> None:
    """The note names the setting that would raise it."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    loaded = load_engine(Load("llama", str(path), 1, gguf=GgufOptions(kv_cache_bytes=1)))
    loaded.engine.close()
    assert loaded.engine.info.context_tokens == 256
    assert any("gguf.kv_cache_gb" in note for note in loaded.notes)


def test_a_quantised_cache_takes_about_half(tmp_path: Path) -> None:
    """34 bytes for 32 values instead of 64, as the plan has it, and some bytes for positions."""
    path = TinyLlama().with_wide_heads().write(tmp_path / "wide.gguf")
    sizes = {}
    for bits in (None, 8):
        loaded = load_engine(Load("llama", str(path), 2, kv_bits=bits))
        sizes[bits] = loaded.engine.info.kv_bytes_per_token
        loaded.engine.close()
    values_bytes = read_header(path.read_bytes()).kv_bytes_per_token
    assert values_bytes <= sizes[None] <= values_bytes + 16
    planned = CacheChoice(bits=8).gguf_bytes(values_bytes)
    assert planned == values_bytes * 34 // 64
    assert planned <= sizes[8] <= planned + 16


def test_a_cache_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    """Heads of 16 fill no block of 32: the message names the setting and llama.cpp's reason."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    with pytest.raises(UnsupportedModel, match=r"models.kv_bits .* block size 32"):
        load_engine(Load("llama", str(path), 1, kv_bits=8))


def test_a_setting_for_a_model_without_a_cache_is_refused() -> None:
    """Vectors keep none between requests, so the setting would do nothing."""
    with pytest.raises(UnsupportedModel, match=r"models\.kv_bits"):
        load_engine(Load("llama", "any.gguf", 1, kv_bits=8, purpose="embedding"))


def test_weights_cut_short_are_corrupt(tmp_path: Path) -> None:
    """llama.cpp's own reason is in the message."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CorruptModel, match="llama"):
        load_engine(Load("llama", str(path), 1))


def test_one_thread_per_physical_core(tmp_path: Path) -> None:
    """Two hyper-threads of one core count once; without a topology each number counts."""
    for cpu, core in enumerate((0, 0, 1, 1)):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core}\n")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 2
    assert physical_cores({0, 1, 2}, tmp_path / "nothing") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000", 2), ("100000 100000", 1), ("max 100000", sys.maxsize), ("", sys.maxsize)],
)
def test_a_quota_bounds_the_threads(tmp_path: Path, text: str, expected: int) -> None:
    """A control group's share of the machine, rounded up."""
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert quota_cores(path) == expected
    assert quota_cores(tmp_path / "none") == sys.maxsize


def test_a_setting_goes_before_what_is_found() -> None:
    """Somebody who asks for three threads gets them."""
    assert choose_threads(3) == 3
    assert choose_threads(None) >= 1
