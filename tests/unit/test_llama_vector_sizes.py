"""What a plan reserves for a GGUF model of vectors is what llama.cpp says it takes."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import PoolingType

from lmx.catalog.gguf_files import read_model
from lmx.catalog.memory_plan import choose_vector_sizes, plan_gguf_vectors
from lmx.protocol.values import GgufOptions
from tests.bert_gguf import write_bert_gguf
from tests.tiny_vector_gguf import TinyQwen3
from tests.tiny_vectors import build_tiny_bert

llama_cpp = pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.library import ContextSize, LlamaModel, VectorContext  # noqa: E402

Writer = Callable[[Path], Path]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: TinyQwen3(context_tokens=4096).write(folder / "m.gguf"),
        lambda folder: write_bert_gguf(
            build_tiny_bert(folder / "bert"), folder / "m.gguf", PoolingType.MEAN
        ),
    ],
    ids=["decoder", "encoder"],
)
def test_a_plan_is_what_llama_cpp_says_it_takes(tmp_path: Path, write: Writer) -> None:
    """By its own log: cache and work space, and a row of logits for each token of a pass."""
    path = write(tmp_path)
    found = read_model(path).header
    sizes, plan = choose_vector_sizes(found, asked=None), plan_gguf_vectors(found, 0)
    model = LlamaModel(str(path), GgufOptions())
    said: list[str] = []
    listener = llama_cpp.llama_log_callback(lambda _level, text, _data: said.append(text.decode()))
    llama_cpp.llama_log_set(listener, ctypes.c_void_p(0))
    size = ContextSize(sizes.cells or sizes.pass_tokens, 64, sizes.pass_tokens, 1)
    VectorContext(model, size, found.vector_pooling).close()
    llama_cpp.llama_log_set(model.log.callback, ctypes.c_void_p(0))
    model.close()
    sized = dict(re.findall(r"(compute|KV) buffer size = +([\d.]+) MiB", "".join(said)))
    assert float(sized.get("KV", 0)) == pytest.approx(plan.kv_cache / 2**20, abs=0.01)
    logits_bytes = 4 * found.vocabulary_size * sizes.pass_tokens
    taken = float(sized["compute"]) * 2**20 + logits_bytes
    assert taken < plan.transient < 1.5 * taken
    assert sum(found.bytes_by_type.values()) == plan.weights
