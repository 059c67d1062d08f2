"""Every llama.cpp call that LMX makes, once, with what it must give.

The signatures are written by hand from one C header: a change of the pinned version that moves one
shows here, before it corrupts anything.
"""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama import library  # noqa: E402
from lmx.engines.llama.batch import RowBatch  # noqa: E402
from lmx.engines.llama.library import (  # noqa: E402
    ContextSize,
    LlamaContext,
    LlamaModel,
    VectorContext,
)
from lmx.errors import CorruptModel, OutOfMemory  # noqa: E402
from lmx.protocol.values import GgufOptions  # noqa: E402
from tests.tiny_gguf import TEMPLATE, TOKENS, WIDTH, TinyLlama  # noqa: E402
from tests.tiny_vector_gguf import tiny_reranker, write_cross_encoder, write_t5_encoder  # noqa: E402

IDS = [3 + 7 * i % (len(TOKENS) - 3) for i in range(24)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a file."""
    return TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[LlamaModel]:
    """The tiny Llama, loaded."""
    opened = LlamaModel(str(path), GgufOptions())
    yield opened
    opened.close()
    opened.close()


@pytest.fixture
def context(model: LlamaModel) -> Iterator[LlamaContext]:
    """Room for two sequences."""
    opened = LlamaContext(model, ContextSize(256, 2, 64, threads=1))
    yield opened
    opened.close()
    opened.close()


def decode(context: LlamaContext, slot: int, ids: list[int], position: int) -> list[float]:
    """Logits after the last of these tokens."""
    batch = RowBatch(64)
    batch.append(slot, ids, position, wanted_from=len(ids) - 1)
    assert 0 == context.decode(batch)
    logits: list[float] = context.logits(batch.outputs)[0].tolist()
    return logits


def test_it_is_the_version_the_signatures_are_of() -> None:
    """The pin and the installed library agree."""
    assert "0.3.36" == version("llama-cpp-python")


def test_what_a_model_says_of_itself(model: LlamaModel) -> None:
    """Sizes, kind, and header values of any length."""
    assert len(TOKENS) == model.vocabulary_size
    assert 512 == model.trained_context_tokens
    assert (True, True) == (model.can_rewind, model.is_decoder)
    assert model.weight_bytes > 100_000
    assert TEMPLATE == model.metadata("tokenizer.chat_template")
    assert None is model.metadata("no.such.key")


def test_a_vocabulary_alone(path: Path) -> None:
    """Without weights it is there at once."""
    opened = LlamaModel(str(path), GgufOptions(use_mmap=False), vocabulary_only=True)
    assert len(TOKENS) == opened.vocabulary_size
    opened.close()


def test_no_model_gives_the_librarys_own_reason(tmp_path: Path) -> None:
    """What llama.cpp logs is in the message."""
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(CorruptModel, match=r"cannot load the file: .*gguf"):
        LlamaModel(str(path), GgufOptions())


def test_a_shared_beginning_is_the_same_beginning(context: LlamaContext) -> None:
    """What another slot computed gives the logits that computing it again gives."""
    expected = decode(context, 0, IDS, 0)
    context.share(0, 1, 20)
    assert 20 == context.length(1)
    assert expected == pytest.approx(decode(context, 1, IDS[20:], 20), abs=1e-3)


def test_a_cut_sequence_goes_on_from_there(context: LlamaContext) -> None:
    """Tokens after the cut are forgotten, those before it are not."""
    expected = decode(context, 0, IDS, 0)
    assert context.cut(0, 10)
    assert 10 == context.length(0)
    assert expected == pytest.approx(decode(context, 0, IDS[10:], 10), abs=1e-3)
    assert context.cut(0, 0)
    assert 0 == context.length(0)


def test_state_grows_with_its_tokens(context: LlamaContext) -> None:
    """Two layers, keys and values, two heads of 16, half precision: 256 bytes and a little."""
    decode(context, 0, IDS[:8], 0)
    before = context.sequence_bytes(0)
    decode(context, 0, IDS[8:24], 8)
    assert 256 <= (context.sequence_bytes(0) - before) / 16 <= 300


def read(context: VectorContext, rows: list[list[int]], width: int) -> NDArray[np.float32]:
    """What one pass makes of these rows."""
    batch = RowBatch(context.size.batch_tokens)
    for sequence, ids in enumerate(rows):
        batch.append(sequence, ids, 0, wanted_from=0)
    context.forget()
    context.run(batch)
    context.synchronise()
    out = np.zeros((len(rows), width), dtype=np.float32)
    context.read(out)
    return out


def test_what_a_model_says_of_its_vectors_and_classes(model: LlamaModel, tmp_path: Path) -> None:
    """A width; names of outputs where the file has them, one without a name where not."""
    assert (WIDTH, [""], False) == (model.vector_width, model.labels, model.is_encoder)
    reranker = LlamaModel(str(tiny_reranker().write(tmp_path / "m.gguf")), GgufOptions())
    assert ["yes", "no"] == reranker.labels
    reranker.close()


def test_a_pass_gives_a_vector_of_each_row(model: LlamaModel) -> None:
    """Rows do not see each other, nor those of the pass before; pooling decides what is kept."""
    size = ContextSize(256, 4, 64, threads=1)
    last, mean = (VectorContext(model, size, pooling) for pooling in ("last", "mean"))
    together = read(last, [IDS[:5], IDS[5:9], IDS[:1]], WIDTH)
    assert together[1] == pytest.approx(read(last, [IDS[5:9]], WIDTH)[0], abs=2e-3)
    assert together[2] == pytest.approx(read(mean, [IDS[:1]], WIDTH)[0], abs=2e-3)
    assert np.abs(together[0] - read(mean, [IDS[:5]], WIDTH)[0]).max() > 0.1
    for context in (last, mean):
        context.close()
        context.close()


def test_encoders_without_a_memory_read_pairs(tmp_path: Path) -> None:
    """One output for each pair; forgetting is harmless where nothing is kept."""
    encoder = LlamaModel(str(write_cross_encoder(tmp_path / "m.gguf")), GgufOptions())
    context = VectorContext(encoder, ContextSize(64, 2, 64, threads=1), "rank")
    found = read(context, [[2, 7, 3, 8, 3], [2, 9, 3, 9, 3]], 1)
    assert found[0] != pytest.approx(found[1], abs=1e-2)
    assert found[:1] == pytest.approx(read(context, [[2, 7, 3, 8, 3]], 1), abs=1e-2)
    context.close()
    encoder.close()


def test_encoders_of_t5s_kind_see_what_comes_after(tmp_path: Path) -> None:
    """The first token's state depends on the last one, as it would not in a decoder's pass."""
    encoder = LlamaModel(str(write_t5_encoder(tmp_path / "m.gguf")), GgufOptions())
    assert encoder.is_encoder
    context = VectorContext(encoder, ContextSize(256, 4, 64, threads=1), "cls")
    found = read(context, [[5, 6, 7], [5, 6, 99]], WIDTH)
    assert np.abs(found[0] - found[1]).max() > 0.01
    context.close()
    encoder.close()


def test_a_pass_that_fails_says_why_and_the_next_one_works(model: LlamaModel) -> None:
    """What the log said before is no reason for the failure after."""
    context = VectorContext(model, ContextSize(256, 4, 64, threads=1), "last")
    expected = read(context, [IDS], WIDTH)
    model.log.lines.append("failed to allocate something")
    with pytest.raises(OutOfMemory, match="failed"):
        read(context, [[len(TOKENS)]], WIDTH)
    with pytest.raises(RuntimeError, match="invalid token"):
        read(context, [[len(TOKENS)]], WIDTH)
    assert expected == pytest.approx(read(context, [IDS], WIDTH), abs=1e-5)
    with pytest.raises(RuntimeError, match="nothing of sequence 1"):
        context.read(np.zeros((2, WIDTH), dtype=np.float32))
    context.close()


def test_what_this_build_can_do() -> None:
    """More sequences than any setting asks for; whether there is a GPU is a plain fact."""
    assert library.max_sequences() >= 64
    assert isinstance(library.has_gpu(), bool)
