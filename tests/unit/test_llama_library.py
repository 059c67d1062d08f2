"""Every llama.cpp call that LMX makes, once, with what it must give.

The signatures are written by hand from one C header: a change of the pinned version that moves one
shows here, before it corrupts anything.
"""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama import library  # noqa: E402
from lmx.engines.llama.batch import RowBatch  # noqa: E402
from lmx.engines.llama.library import ContextSize, LlamaContext, LlamaModel  # noqa: E402
from lmx.errors import CorruptModel  # noqa: E402
from lmx.protocol.values import GgufOptions  # noqa: E402
from tests.tiny_gguf import TEMPLATE, TOKENS, TinyLlama  # noqa: E402

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


def test_what_this_build_can_do() -> None:
    """More sequences than any setting asks for; whether there is a GPU is a plain fact."""
    assert library.max_sequences() >= 64
    assert isinstance(library.has_gpu(), bool)
