"""What a directory of vectors or scores may be on MLX, and which error names what is wrong."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.errors import CorruptModel, InvalidRequest, LoadError, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from tests.tiny_decoders import build_tiny_embedder, build_tiny_reranker
from tests.tiny_vectors import (
    WIDTH,
    build_tiny_bert,
    build_tiny_cross_encoder,
    build_tiny_modernbert,
    build_tiny_xlm_roberta,
    write_modules,
)

TEXTS = ("the hen and the heron", "on", "an end")


def load(directory: Path, purpose: Purpose = "embedding", **fields: Any) -> LoadedVectors:
    """The engine of a directory."""
    loaded = load_engine(Load("mlx", str(directory), 8, purpose=purpose, **fields))
    assert isinstance(loaded, LoadedVectors)
    return loaded


def edit(directory: Path, file: str = "config.json", **changes: object) -> None:
    """Change keys of a JSON file, which is made if need be; `None` removes the key."""
    path = directory / file
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (found | changes).items() if v is not None}))


def edit_tensor(directory: Path, name: str, change: Callable[[mx.array], mx.array | None]) -> None:
    """Change a tensor; `None` removes it."""
    path = str(directory / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    found = change(weights.pop(name))
    if found is not None:
        weights[name] = found
    mx.eval(weights)
    mx.save_safetensors(path, weights)


def edit_module(directory: Path, place: int, **changes: str) -> None:
    """Change one entry of modules.json."""
    path = directory / "modules.json"
    modules = json.loads(path.read_text())
    modules[place] |= changes
    path.write_text(json.dumps(modules))


def drop(value: mx.array) -> None:
    """No tensor."""


def add_dense(directory: Path, *, outputs: int = 8, kind: str = "Dense") -> None:
    """Put a dense module between pooling and normalising."""
    modules = json.loads((directory / "modules.json").read_text())
    module = {
        "idx": 2,
        "name": "2",
        "path": "2_Dense",
        "type": f"sentence_transformers.models.{kind}",
    }
    modules.insert(2, module)
    (directory / "modules.json").write_text(json.dumps(modules))
    folder = directory / "2_Dense"
    folder.mkdir()
    edit(folder, in_features=WIDTH, out_features=outputs, bias=True)
    edit(folder, activation_function="torch.nn.modules.activation.Tanh")
    weights = {
        "linear.weight": mx.random.normal((outputs, WIDTH), key=mx.random.key(1)),
        "linear.bias": mx.random.normal((outputs,), key=mx.random.key(2)),
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


Damage = tuple[Callable[[Path], object], type[LoadError], str]
QUERY = "encoder.layer.1.attention.self.query.weight"
DAMAGES: dict[str, Damage] = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), CorruptModel, "model*"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), UnsupportedModel, "tokenizer.json"),
    "missing tensor": (lambda d: edit_tensor(d, QUERY, drop), CorruptModel, QUERY),
    "other shape": (lambda d: edit_tensor(d, QUERY, lambda v: v[:5]), CorruptModel, QUERY),
    "quantised tensor": (
        lambda d: edit_tensor(d, QUERY, lambda v: v.astype(mx.uint32)),
        UnsupportedModel,
        QUERY,
    ),
    "quantised config": (
        lambda d: edit(d, quantization={"group_size": 64, "bits": 4}),
        UnsupportedModel,
        "4bit",
    ),
    "no numbers": (lambda d: edit_tensor(d, QUERY, lambda v: v * mx.nan), CorruptModel, "numbers"),
    "no type": (lambda d: edit(d, model_type=None), CorruptModel, "model_type"),
    "unknown type": (lambda d: edit(d, model_type="nova9"), UnsupportedModel, "nova9"),
    "no width": (lambda d: edit(d, hidden_size=None), CorruptModel, "hidden_size"),
    "odd heads": (lambda d: edit(d, num_attention_heads=5), CorruptModel, "num_attention_heads"),
    "no layers": (lambda d: edit(d, num_hidden_layers="two"), CorruptModel, "num_hidden_layers"),
    "bad epsilon": (lambda d: edit(d, layer_norm_eps="x"), CorruptModel, "layer_norm_eps"),
    "other positions": (
        lambda d: edit(d, position_embedding_type="relative_key"),
        UnsupportedModel,
        "relative_key",
    ),
    "other activation": (lambda d: edit(d, hidden_act="mish"), UnsupportedModel, "hidden_act"),
    "cut modules": (lambda d: (d / "modules.json").write_text("[{"), CorruptModel, "modules.json"),
    "other modules": (lambda d: (d / "modules.json").write_text("[]"), UnsupportedModel, "encoder"),
    "unknown module": (
        lambda d: edit_module(d, 2, type="sentence_transformers.models.LSTM"),
        UnsupportedModel,
        "LSTM",
    ),
    "no pooling": (
        lambda d: edit_module(d, 1, type="sentence_transformers.models.Normalize"),
        UnsupportedModel,
        "pooling",
    ),
    "encoder elsewhere": (
        lambda d: edit_module(d, 0, path="0_Transformer"),
        UnsupportedModel,
        "0_Transformer",
    ),
    "module outside": (lambda d: edit_module(d, 1, path="../1"), CorruptModel, "../1"),
    "no pooling file": (
        lambda d: (d / "1_Pooling" / "config.json").unlink(),
        CorruptModel,
        "config.json",
    ),
    "unknown pooling": (
        lambda d: edit(d / "1_Pooling", pooling_mode="median"),
        UnsupportedModel,
        "median",
    ),
    "pooling of nothing": (
        lambda d: edit(d / "1_Pooling", pooling_mode_mean_tokens=False),
        CorruptModel,
        "names no pooling",
    ),
    "dense without weights": (
        lambda d: (add_dense(d), (d / "2_Dense" / "model.safetensors").unlink()),
        UnsupportedModel,
        "2_Dense",
    ),
    "dense of another width": (
        lambda d: (add_dense(d), edit(d / "2_Dense", out_features=9)),
        CorruptModel,
        "linear",
    ),
    "dense of an unknown activation": (
        lambda d: (add_dense(d), edit(d / "2_Dense", activation_function="a.b.Mish")),
        UnsupportedModel,
        "2_Dense",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    """Each kind of broken model is refused with the class and words that say what is wrong."""
    damage, error, words = DAMAGES[name]
    damage(build_tiny_bert(tmp_path))
    with pytest.raises(error) as refused:
        load(tmp_path)
    assert error is type(refused.value)
    assert words in refused.value.message


Refusal = tuple[Callable[[Path], Path], Purpose, dict[str, Any], str]
REFUSALS: dict[str, Refusal] = {
    "three labels": (
        partial(build_tiny_cross_encoder, kind="bert", labels=3),
        "reranking",
        {},
        "3 labels",
    ),
    "an embedder as a reranker": (build_tiny_bert, "reranking", {}, "pooler.dense"),
    "odd head pooling": (
        partial(build_tiny_cross_encoder, kind="modernbert"),
        "reranking",
        {"classifier_pooling": "max"},
        "classifier_pooling",
    ),
    "odd rotation": (
        build_tiny_modernbert,
        "embedding",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
        "yarn",
    ),
    "odd layers": (build_tiny_modernbert, "embedding", {"layer_types": ["mamba"]}, "mamba"),
    "both ways": (build_tiny_embedder, "embedding", {"is_causal": False}, "is_causal"),
    "both ways, in Gemma's words": (
        build_tiny_reranker,
        "reranking",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention",
    ),
    "a decoder with a head of labels": (
        build_tiny_reranker,
        "reranking",
        {"architectures": ["Qwen3ForSequenceClassification"]},
        "Qwen3ForSequenceClassification",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_why(tmp_path: Path, name: str) -> None:
    """What the engine cannot compute as the model means it is refused, never approximated."""
    build, purpose, changes, words = REFUSALS[name]
    edit(build(tmp_path), **changes)
    with pytest.raises(LoadError) as refused:
        load(tmp_path, purpose)
    assert words in refused.value.message


def test_a_dense_module_is_applied_in_its_place(tmp_path: Path) -> None:
    """A dense module between pooling and normalising changes width and numbers accordingly."""
    build_tiny_bert(tmp_path)
    write_modules(tmp_path, pooling="mean", is_normalised=False, max_tokens=48)
    plain = load(tmp_path)
    pooled = plain.engine.compute(plain.tokenizer.encode(TEXTS))
    assert np.abs(np.linalg.norm(pooled, axis=1) - 1).min() > 0.1
    write_modules(tmp_path, pooling="mean", is_normalised=True, max_tokens=48)
    add_dense(tmp_path)
    loaded = load(tmp_path)
    tensors = mx.load(str(tmp_path / "2_Dense" / "model.safetensors"))
    assert isinstance(tensors, dict)
    weight, bias = (np.array(tensors[f"linear.{name}"]) for name in ("weight", "bias"))
    expected = np.tanh(pooled @ weight.T + bias)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert 8 == loaded.engine.info.width
    assert np.allclose(expected, loaded.engine.compute(loaded.tokenizer.encode(TEXTS)), atol=1e-5)
    assert loaded.engine.info.weight_bytes == plain.engine.info.weight_bytes + 4 * 8 * (WIDTH + 1)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max", "mean_sqrt_len"])
def test_pooling_is_the_model_s_own(tmp_path: Path, pooling: str) -> None:
    """Each flag of the pooling file gives vectors of its own; the newer spelling gives the same."""
    build_tiny_bert(tmp_path)
    rows = load(tmp_path).tokenizer.encode(TEXTS)
    usual = load(tmp_path).engine.compute(rows)
    write_modules(tmp_path, pooling=pooling, is_normalised=False, max_tokens=None)
    found = load(tmp_path).engine.compute(rows)
    assert np.abs(found - usual).max() > 1e-3
    named = "mean_sqrt_len_tokens" if pooling == "mean_sqrt_len" else pooling
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": named}))
    assert np.array_equal(found, load(tmp_path).engine.compute(rows))


def test_without_modules_the_usual_is_done_and_said(tmp_path: Path) -> None:
    """A plain directory gives means of length 1, or last tokens of decoders, and a remark."""
    for build, words in ((build_tiny_modernbert, "mean"), (build_tiny_embedder, "last token")):
        directory = build(tmp_path / words)
        (directory / "modules.json").unlink(missing_ok=True)
        loaded = load(directory)
        found = loaded.engine.compute(loaded.tokenizer.encode(TEXTS))
        assert np.allclose(1, np.linalg.norm(found, axis=1), atol=1e-6)
        assert any(words in note for note in loaded.notes)
    assert not any("modules.json" in n for n in load(build_tiny_bert(tmp_path / "b")).notes)


@pytest.mark.parametrize(
    ("own", "tokenizer", "asked", "expected"),
    [
        (48, None, None, 48),
        (None, None, None, 64),
        (500, None, None, 64),
        (None, 20, None, 20),
        (None, 1e30, None, 64),
        (48, 40, 33, 33),
        (48, 40, 50, 40),
    ],
)
def test_the_shortest_limit_holds(
    tmp_path: Path, own: int | None, tokenizer: float | None, asked: int | None, expected: int
) -> None:
    """Of the model's file, its positions, its tokenizer and the setting, the least one counts."""
    build_tiny_bert(tmp_path)
    edit(tmp_path, "sentence_bert_config.json", max_seq_length=own)
    edit(tmp_path, "tokenizer_config.json", model_max_length=tokenizer)
    loaded = load(tmp_path, context_tokens=asked)
    assert expected == loaded.tokenizer.max_tokens == loaded.engine.info.context_tokens


def test_unknown_ids_are_refused(tmp_path: Path) -> None:
    """An id beyond the vocabulary, a negative one and an empty row read no foreign memory."""
    loaded = load(build_tiny_xlm_roberta(tmp_path))
    top = loaded.tokenizer.vocabulary_size
    for ids in ([top], [-1], []):
        with pytest.raises(InvalidRequest):
            loaded.engine.compute([TokenRow([1]), TokenRow(ids)])
    assert np.isfinite(loaded.engine.compute([TokenRow([top - 1])])).all()
