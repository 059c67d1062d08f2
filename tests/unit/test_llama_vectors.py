"""GGUF models of vectors and scores: equal to NumPy in float64, or refused."""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import PoolingType
from tokenizers import Tokenizer

from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.errors import InvalidRequest, OutOfMemory, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.bert_gguf import write_bert_gguf
from tests.numpy_decoders import qwen3_hidden, qwen3_yes
from tests.numpy_encoders import Tensors, bert_score, bert_states, share, unit
from tests.tiny_gguf import TOKENS
from tests.tiny_vector_gguf import TinyQwen3, tiny_reranker
from tests.tiny_vectors import (
    WIDTH,
    bert_config,
    bert_tokenizer,
    bert_weights,
    build_tiny_bert,
    build_tiny_cross_encoder,
    write_model,
)

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.vectors import load_vectors  # noqa: E402

TEXTS = ["the hen and the heron", "", "Grüße, 안녕 [SEP] x", "an end " * 12, "x", "hello 12 w"]
PAIRS = [("the hen", text) for text in TEXTS]
# Half precision in attention and activations, against float64.
LEAST_COSINE, MOST_OFF = 0.99999, 1e-3


@contextmanager
def opened(
    path: Path, purpose: Purpose, context_tokens: int | None = None
) -> Iterator[LoadedVectors]:
    """A loaded model."""
    loaded = load_vectors(Load("llama", str(path), 4, context_tokens, purpose=purpose))
    try:
        yield loaded
    finally:
        loaded.engine.close()


def read_config(directory: Path) -> dict[str, Any]:
    """Its `config.json`."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config


def cosines(found: Any, expected: list[Any]) -> float:
    """The least of the rows' cosines; both are of length 1."""
    return float((found * np.stack(expected)).sum(axis=1).min())


def cross_score(config: dict[str, Any], weights: Tensors, ids: list[int]) -> float:
    """A cross-encoder's, of one segment."""
    return share(bert_score(weights, bert_states(config, weights, (ids, []), "bert.")))


@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.CLS, PoolingType.NONE])
def test_bert_gives_the_vectors_of_its_definition(tmp_path: Path, pooling: PoolingType) -> None:
    """The file's pooling over states computed in float64, of ids as `tokenizers` gives them.

    An encoder that names no pooling is pooled by the mean.
    """
    directory = build_tiny_bert(tmp_path / "bert")
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    config = read_config(directory)
    weights = bert_weights(config)
    path = write_bert_gguf(directory, tmp_path / "m.gguf", pooling)
    with opened(path, "embedding") as (engine, tokenizer, notes):
        rows = tokenizer.encode(TEXTS)
        assert [reference.encode(text).ids for text in TEXTS] == [row.ids for row in rows]
        states = [bert_states(config, weights, (row.ids, [])) for row in rows]
        is_first = pooling == PoolingType.CLS
        expected = [unit(state[0] if is_first else state.mean(axis=0)) for state in states]
        assert cosines(engine.compute(rows), expected) >= LEAST_COSINE
        assert ("embedding", WIDTH, 64, 0) == (
            engine.info.purpose,
            engine.info.width,
            engine.info.context_tokens,
            engine.info.kv_bytes_per_token,
        )
        assert ("llama", "cpu") == (engine.info.engine, engine.info.device)
        assert [] == notes


def test_a_cross_encoder_gives_the_scores_of_its_definition(tmp_path: Path) -> None:
    """Sigmoid of the head, every token of the first segment, which a note says."""
    directory = build_tiny_cross_encoder(tmp_path / "cross", "bert")
    path = write_bert_gguf(directory, tmp_path / "m.gguf", PoolingType.RANK)
    config = read_config(directory)
    weights = _load(directory)
    with opened(path, "reranking") as (engine, tokenizer, notes):
        rows = tokenizer.encode_pairs(PAIRS)
        expected = [cross_score(config, weights, row.ids) for row in rows]
        found = engine.compute(rows)
        assert expected == pytest.approx(found[:, 0].tolist(), abs=MOST_OFF)
        assert max(expected) - min(expected) > 20 * MOST_OFF
        assert 0 == engine.info.width
        assert ["segment" in note for note in notes] == [True]


@pytest.mark.parametrize("pooling", [PoolingType.LAST, None])
def test_a_decoder_gives_its_last_state(tmp_path: Path, pooling: PoolingType | None) -> None:
    """Of the end token that its vocabulary appends; so also where no pooling is named."""
    model = TinyQwen3(pooling=pooling)
    with opened(model.write(tmp_path / "m.gguf"), "embedding") as (engine, tokenizer, _):
        rows = tokenizer.encode(TEXTS)
        expected = [unit(qwen3_hidden(model.weights, row.ids)[-1]) for row in rows]
        assert cosines(engine.compute(rows), expected) >= LEAST_COSINE


def test_yes_and_no_become_a_score(tmp_path: Path) -> None:
    """The share of "yes" after the whole prompt, whichever of the two labels is first."""
    model = tiny_reranker()
    with opened(model.write(tmp_path / "m.gguf"), "reranking") as (engine, tokenizer, notes):
        rows = tokenizer.encode_pairs(PAIRS)
        expected = [qwen3_yes(model.weights, row.ids) for row in rows]
        assert expected == pytest.approx(engine.compute(rows)[:, 0].tolist(), abs=MOST_OFF)
        assert [] == notes
    turned = TinyQwen3(pooling=PoolingType.RANK, labels=("No", "Yes"), template=model.template)
    with opened(turned.write(tmp_path / "n.gguf"), "reranking") as (engine, _, _):
        expected = [1 - score for score in expected]
        assert expected == pytest.approx(engine.compute(rows)[:, 0].tolist(), abs=MOST_OFF)


def test_two_labels_of_an_encoder_are_weighed(tmp_path: Path) -> None:
    """Where llama.cpp gives bare outputs, the softmax is taken here."""
    directory = build_tiny_cross_encoder(tmp_path / "cross", "bert", labels=2)
    labels = ["irrelevant", "relevant"]
    path = write_bert_gguf(directory, tmp_path / "m.gguf", PoolingType.RANK, labels=labels)
    config, weights = read_config(directory), _load(directory)
    with opened(path, "reranking") as (engine, tokenizer, _):
        rows = tokenizer.encode_pairs(PAIRS)
        found = engine.compute(rows)[:, 0].tolist()
    logit = weights["classifier.weight"], weights["classifier.bias"]
    single = {
        **weights,
        "classifier.weight": logit[0][1:] - logit[0][:1],
        "classifier.bias": logit[1][1:] - logit[1][:1],
    }
    expected = [cross_score(config, single, row.ids) for row in rows]
    assert expected == pytest.approx(found, abs=MOST_OFF)


def test_a_row_longer_than_a_pass_is_read_in_parts(tmp_path: Path) -> None:
    """The state after 1,300 tokens, in passes of 512, alone and after others."""
    model = TinyQwen3(context_tokens=2048)
    with opened(model.write(tmp_path / "m.gguf"), "embedding") as (engine, _, _):
        long = TokenRow([5 + i * 31 % (len(TOKENS) - 5) for i in range(1300)])
        short = TokenRow([7, 8, 9])
        expected = [unit(qwen3_hidden(model.weights, row.ids)[-1]) for row in (short, long)]
        for order in ([0, 1], [1, 0], [1]):
            found = engine.compute([(short, long)[index] for index in order])
            assert cosines(found, [expected[index] for index in order]) >= LEAST_COSINE
        assert 512 == engine.batch_tokens < engine.info.context_tokens


def test_many_short_rows_go_in_several_passes(tmp_path: Path) -> None:
    """More rows than there are sequences, of mixed lengths, each with its own numbers."""
    model = TinyQwen3()
    with opened(model.write(tmp_path / "m.gguf"), "embedding") as (engine, _, _):
        rows = [TokenRow([5 + (i * j) % 200 for j in range(1 + i % 17)]) for i in range(200)]
        expected = [unit(qwen3_hidden(model.weights, row.ids)[-1]) for row in rows]
        assert cosines(engine.compute(rows), expected) >= LEAST_COSINE
        assert engine.info.max_sequences < len(rows)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (("yes",), "the same score"),
        (("left", "right"), "which of its classifier"),
        (("yes", "true"), "which of its classifier"),
    ],
)
def test_unknown_classifiers_are_refused(
    tmp_path: Path, labels: tuple[str, ...], reason: str
) -> None:
    """No score is better than one that means nothing."""
    model = TinyQwen3(pooling=PoolingType.RANK, labels=labels)
    with (
        pytest.raises(UnsupportedModel, match=reason),
        opened(model.write(tmp_path / "m.gguf"), "reranking"),
    ):
        pass


@pytest.mark.parametrize(
    ("model", "purpose", "reason"),
    [
        (tiny_reranker(), "embedding", "a reranking model"),
        (TinyQwen3(), "reranking", "no reranking model"),
        (TinyQwen3(pooling=PoolingType.RANK), "reranking", "no classifier"),
    ],
)
def test_other_purposes_are_refused(
    tmp_path: Path, model: TinyQwen3, purpose: Purpose, reason: str
) -> None:
    """A reranker has no vectors, an embedder no scores, nor has a file without a classifier."""
    with (
        pytest.raises(UnsupportedModel, match=reason),
        opened(model.write(tmp_path / "m.gguf"), purpose),
    ):
        pass


@pytest.mark.parametrize("ids", [[], [-1], [len(TOKENS)], [1] * 257])
def test_rows_that_would_end_the_process_are_refused(tmp_path: Path, ids: list[int]) -> None:
    """Before anything is computed; the engine goes on."""
    with opened(TinyQwen3().write(tmp_path / "m.gguf"), "embedding") as (engine, tokenizer, _):
        assert len(TOKENS) == tokenizer.vocabulary_size
        with pytest.raises(InvalidRequest):
            engine.compute([TokenRow([1]), TokenRow(ids)])
        assert np.isfinite(engine.compute([TokenRow([1])])).all()


def test_a_context_that_is_asked_for_is_the_longest_row(tmp_path: Path) -> None:
    """Up to what the model was made for; encoders make room for it in one pass."""
    path = write_bert_gguf(build_tiny_bert(tmp_path / "b"), tmp_path / "m.gguf", PoolingType.MEAN)
    for asked, expected in ((40, 40), (4096, 64)):
        with opened(path, "embedding", asked) as (engine, tokenizer, notes):
            assert (expected, expected) == (engine.info.context_tokens, tokenizer.max_tokens)
            assert [] == notes


def test_a_shorter_row_than_the_models_is_said(tmp_path: Path) -> None:
    """A cache for a million tokens is not made unasked, and a note names the setting."""
    model = TinyQwen3(context_tokens=8 << 20)
    with opened(model.write(tmp_path / "m.gguf"), "embedding") as (engine, _, notes):
        assert engine.info.context_tokens == (1 << 30) // 256
        assert ["gguf.kv_cache_gb" in note for note in notes] == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_fewer_rows_fit_after_the_memory_was_too_little(tmp_path: Path) -> None:
    """llama.cpp has room for a vocabulary of logits per token: with 100,000 that is memory."""
    directory = build_large_vocabulary(tmp_path / "b", 100_000)
    path = write_bert_gguf(directory, tmp_path / "m.gguf", PoolingType.MEAN)
    with opened(path, "embedding") as (engine, tokenizer, _):
        row, *_ = tokenizer.encode(["the hen and the heron on an end " * 4])
        before = engine.compute([row])
        limits = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        ceiling = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (ceiling, limits[1]))
        try:
            with pytest.raises(OutOfMemory, match="memory"):
                engine.compute([row] * 15)
            after = engine.compute([row])
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert np.abs(before - after).max() <= MOST_OFF
        assert (15, WIDTH) == engine.compute([row] * 15).shape


def build_large_vocabulary(path: Path, count: int) -> Path:
    """The tiny BERT with so many pieces more, which no text has."""
    described = json.loads(bert_tokenizer().to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary |= {f"unused{index}": len(vocabulary) + index for index in range(count)}
    config = bert_config(len(vocabulary))
    tokenizer = Tokenizer.from_str(json.dumps(described))
    write_model(path, config, bert_weights(config), tokenizer)
    return path


def _load(directory: Path) -> dict[str, Any]:
    """The weights of a directory, as float32 arrays."""
    from_file = mx.load(str(directory / "model.safetensors"))
    assert isinstance(from_file, dict)
    return {name: np.array(values) for name, values in from_file.items()}
