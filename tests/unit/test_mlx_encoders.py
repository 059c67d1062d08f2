"""Encoders and cross-encoders on MLX give the numbers of an independent computation in float64."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.numpy_encoders import (
    Array,
    Tensors,
    bert_score,
    bert_states,
    modernbert_score,
    modernbert_states,
    roberta_score,
    share,
    unit,
)
from tests.tiny_vectors import (
    POSITIONS,
    WIDTH,
    bert_config,
    bert_weights,
    build_tiny_bert,
    build_tiny_cross_encoder,
    build_tiny_modernbert,
    build_tiny_xlm_roberta,
    modernbert_weights,
    random_weights,
    write_model,
)

TOLERANCE = 1e-4
TEXTS = ("the hen and the heron", "on", "", "an end, in the inn; " * 5, "hello? " * 17, "nine hens")
PAIRS = (*(("the hen", text) for text in TEXTS), ("in the inn", "x"), ("", ""))
PREFIXES = {"bert": "bert.", "xlm-roberta": "roberta.", "modernbert": "model."}


def load(directory: Path, purpose: Purpose) -> LoadedVectors:
    """The engine of a tiny model."""
    loaded = load_engine(Load("mlx", str(directory), 8, purpose=purpose))
    assert isinstance(loaded, LoadedVectors)
    return loaded


def read(directory: Path) -> tuple[dict[str, Any], Tensors]:
    """A model's configuration and tensors."""
    config = json.loads((directory / "config.json").read_text())
    tensors = mx.load(str(directory / "model.safetensors"))
    assert isinstance(tensors, dict)
    return config, {name: np.array(value) for name, value in tensors.items()}


def states(config: dict[str, Any], tensors: Tensors, row: TokenRow, prefix: str = "") -> Array:
    """Hidden states by the reference."""
    if config["model_type"] == "modernbert":
        return modernbert_states(config, tensors, row.ids, prefix)
    return bert_states(config, tensors, (row.ids, row.type_ids), prefix)


def largest(expected: list[Array] | list[list[float]], found: NDArray[np.float32]) -> float:
    """The largest difference."""
    assert np.shape(expected) == found.shape
    return float(np.abs(np.array(expected) - found).max())


def mean(found: Array) -> Array:
    """Over the tokens."""
    pooled: Array = found.mean(axis=0)
    return pooled


def first(found: Array) -> Array:
    """Of the first token."""
    pooled: Array = found[0]
    return pooled


Pool = Callable[[Array], Array]


@pytest.mark.parametrize(
    ("build", "prefix", "pool"),
    [
        (build_tiny_bert, "", mean),
        (build_tiny_xlm_roberta, "roberta.", first),
        (build_tiny_modernbert, "", mean),
    ],
    ids=["bert", "xlm-roberta", "modernbert"],
)
def test_vectors_equal_the_reference(
    tmp_path: Path, build: Callable[[Path], Path], prefix: str, pool: Pool
) -> None:
    """A mixed batch of texts, an empty and a long one among them, is right in every number."""
    loaded = load(build(tmp_path), "embedding")
    config, tensors = read(tmp_path)
    rows = loaded.tokenizer.encode(TEXTS, limit=loaded.tokenizer.max_tokens)
    expected = [unit(pool(states(config, tensors, row, prefix))) for row in rows]
    assert largest(expected, loaded.engine.compute(rows)) <= TOLERANCE


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", PREFIXES)
def test_scores_equal_the_reference(tmp_path: Path, kind: str, labels: int) -> None:
    """Scores of pairs come from the head's own tensors and from both segments."""
    loaded = load(build_tiny_cross_encoder(tmp_path, kind, labels), "reranking")
    config, tensors = read(tmp_path)
    rows = loaded.tokenizer.encode_pairs(PAIRS, limit=loaded.tokenizer.max_tokens)
    expected = []
    for row in rows:
        found = states(config, tensors, row, PREFIXES[kind])
        if kind == "modernbert":
            logits = modernbert_score(config, tensors, found)
        else:
            logits = (bert_score if kind == "bert" else roberta_score)(tensors, found)
        expected.append([share(logits)])
    assert largest(expected, loaded.engine.compute(rows)) <= TOLERANCE
    assert np.ptp(expected) > 100 * TOLERANCE


def test_long_rows_are_computed_in_blocks(tmp_path: Path) -> None:
    """Rows whose scores exceed a block are right, too, with windows and without, and padded."""
    loaded = load(build_tiny_modernbert(tmp_path), "embedding")
    path = tmp_path / "config.json"
    changed = json.loads(path.read_text()) | {"max_position_embeddings": 2048}
    path.write_text(json.dumps(changed))
    config, tensors = read(tmp_path)
    loaded = load(tmp_path, "embedding")
    generator = np.random.default_rng(3)
    rows = [
        TokenRow(generator.integers(5, config["vocab_size"], length).tolist())
        for length in (900, 1100)
    ]
    expected = [unit(mean(states(config, tensors, row))) for row in rows]
    assert largest(expected, loaded.engine.compute(rows)) <= TOLERANCE


def test_segments_matter_to_bert(tmp_path: Path) -> None:
    """A pair's second text is of segment 1, which changes BERT's score."""
    loaded = load(build_tiny_cross_encoder(tmp_path, "bert"), "reranking")
    (row,) = loaded.tokenizer.encode_pairs([("the hen", "on and on")])
    assert [0] * 4 + [1] * 4 == row.type_ids
    both, one = loaded.engine.compute([row, TokenRow(row.ids)])
    assert abs(both - one) > TOLERANCE


def test_longest_row_has_all_positions(tmp_path: Path) -> None:
    """XLM-RoBERTa's positions before the first are not for rows: the rest are all of use."""
    loaded = load(build_tiny_xlm_roberta(tmp_path), "embedding")
    assert POSITIONS == loaded.tokenizer.max_tokens == loaded.engine.info.context_tokens


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("norm", ["weight bias", "gamma beta"])
def test_names_with_and_without_prefix(tmp_path: Path, prefix: str, norm: str) -> None:
    """The same tensors give the same vectors under each spelling, in one file or in shards."""
    plain = load(build_tiny_bert(tmp_path / "plain"), "embedding")
    build_tiny_bert(tmp_path / "other")
    config, _ = read(tmp_path / "other")
    weights = bert_weights(config)
    for new, old in zip(("weight", "bias"), norm.split(), strict=True):
        weights = {
            name.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): value
            for name, value in weights.items()
        }
    arrays = {prefix + name: mx.array(value) for name, value in weights.items()}
    arrays["embeddings.position_ids"] = mx.arange(POSITIONS)[None]
    names = sorted(arrays)
    (tmp_path / "other" / "model.safetensors").unlink()
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, members in shards.items():
        mx.save_safetensors(str(tmp_path / "other" / shard), {n: arrays[n] for n in members})
    index = {"weight_map": {n: shard for shard, members in shards.items() for n in members}}
    (tmp_path / "other" / "model.safetensors.index.json").write_text(json.dumps(index))
    other = load(tmp_path / "other", "embedding")
    rows = plain.tokenizer.encode(TEXTS, limit=48)
    assert np.array_equal(plain.engine.compute(rows), other.engine.compute(rows))


def test_half_weights_are_computed_in_float32(tmp_path: Path) -> None:
    """A model stored in float16 differs from float32 by its rounding and is exact in itself."""
    build_tiny_bert(tmp_path)
    config, tensors = read(tmp_path)
    halves = {name: value.astype(np.float16) for name, value in tensors.items()}
    arrays = {name: mx.array(value) for name, value in halves.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    loaded = load(tmp_path, "embedding")
    rows = loaded.tokenizer.encode(TEXTS, limit=48)
    rounded = {name: value.astype(np.float32) for name, value in halves.items()}
    expected = [unit(mean(states(config, rounded, row))) for row in rows]
    assert largest(expected, loaded.engine.compute(rows)) <= TOLERANCE


def test_modernbert_of_transformers_5(tmp_path: Path) -> None:
    """`layer_types` and nested `rope_parameters` say the same as the older fields."""
    old = load(build_tiny_modernbert(tmp_path / "old"), "embedding")
    build_tiny_modernbert(tmp_path / "new")
    path = tmp_path / "new" / "config.json"
    config = json.loads(path.read_text())
    for field in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"):
        del config[field]
    local = "sliding_attention"
    config["layer_types"] = ["full_attention", local, local, "full_attention"]
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        local: {"rope_type": "default", "rope_theta": 10000.0},
    }
    path.write_text(json.dumps(config))
    new = load(tmp_path / "new", "embedding")
    rows = old.tokenizer.encode(TEXTS, limit=48)
    assert np.array_equal(old.engine.compute(rows), new.engine.compute(rows))


def test_modernbert_with_biases(tmp_path: Path) -> None:
    """Biases that the configuration announces are read and used."""
    build_tiny_modernbert(tmp_path)
    plain = load(tmp_path, "embedding")
    config, _ = read(tmp_path)
    config |= {"norm_bias": True, "attention_bias": True, "mlp_bias": True}
    weights = modernbert_weights(config)
    shapes = {
        name.removesuffix("weight") + "bias": value.shape[:1]
        for name, value in weights.items()
        if "tok_embeddings" not in name
    }
    weights |= random_weights(shapes, seed=9)
    write_model(tmp_path, config, weights, tokenizer_of(tmp_path))
    loaded = load(tmp_path, "embedding")
    rows = loaded.tokenizer.encode(TEXTS, limit=48)
    expected = [unit(mean(states(config, weights, row))) for row in rows]
    found = loaded.engine.compute(rows)
    assert largest(expected, found) <= TOLERANCE
    assert np.abs(found - plain.engine.compute(rows)).max() > 100 * TOLERANCE


def tokenizer_of(directory: Path) -> Tokenizer:
    """The tokenizer that lies there."""
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_width_is_told(tmp_path: Path) -> None:
    """The daemon is told how long vectors are and what the weights take, pooler or not."""
    info = load(build_tiny_bert(tmp_path), "embedding").engine.info
    assert (WIDTH, "embedding", "mlx") == (info.width, info.purpose, info.engine)
    vocabulary = bert_config(len(tokenizer_of(tmp_path).get_vocab()))["vocab_size"]
    values = sum(v.size for v in bert_weights(bert_config(vocabulary)).values())
    assert 4 * values == info.weight_bytes
