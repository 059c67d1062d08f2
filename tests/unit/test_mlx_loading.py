"""What a model directory may be, and which error names what is wrong with it."""

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from lmx.engines import load_engine as load
from lmx.engines.mlx import blas
from lmx.engines.mlx.loading import context_tokens, end_ids
from lmx.errors import CorruptModel, LoadError, UnsupportedModel
from lmx.protocol.messages import Load
from tests.tiny_models import CONTEXT_TOKENS, build_tiny_llama


def edit_config(directory: Path, **changes: object) -> None:
    """Change keys of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path, size: int) -> None:
    """Cut a file."""
    path.write_bytes(path.read_bytes()[:size])


def request_shards(directory: Path) -> None:
    """Write an index that names a shard which is not there."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def drop_a_tensor(directory: Path) -> None:
    """Save the weights without one of them."""
    path = str(directory / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    del weights["model.norm.weight"]
    mx.eval(weights)
    mx.save_safetensors(path, weights)


Damage = tuple[Callable[[Path], object], type[LoadError], str]
DAMAGES: dict[str, Damage] = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), CorruptModel, "model*"),
    "no config": (lambda d: (d / "config.json").unlink(), CorruptModel, "config.json"),
    "cut config": (lambda d: truncate(d / "config.json", 30), CorruptModel, "config.json"),
    "config list": (lambda d: (d / "config.json").write_text("[]"), CorruptModel, "config.json"),
    "cut data": (lambda d: truncate(d / "model.safetensors", 50_000), CorruptModel, "truncated"),
    "cut header": (lambda d: truncate(d / "model.safetensors", 100), CorruptModel, "truncated"),
    "cut prefix": (lambda d: truncate(d / "model.safetensors", 4), CorruptModel, "truncated"),
    "not safetensors": (
        lambda d: (d / "model.safetensors").write_bytes(b"version https://git-lfs" * 9),
        CorruptModel,
        "no safetensors",
    ),
    "garbage header": (
        lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"{{{{"),
        CorruptModel,
        "header",
    ),
    "missing shard": (request_shards, CorruptModel, "model-00002-of-00002"),
    "missing tensor": (drop_a_tensor, CorruptModel, "do not match"),
    "other shapes": (lambda d: edit_config(d, hidden_size=32), CorruptModel, "do not match"),
    "no type": (lambda d: edit_config(d, model_type=None), CorruptModel, "model_type"),
    "unknown type": (lambda d: edit_config(d, model_type="nova9"), UnsupportedModel, "nova9"),
    "type of no model": (lambda d: edit_config(d, model_type="cache"), UnsupportedModel, "cache"),
    "own code": (lambda d: edit_config(d, model_file="m.py"), UnsupportedModel, "code of its own"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), UnsupportedModel, "tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    """Each kind of broken model is refused with the class and words that say what is wrong."""
    damage, error, words = DAMAGES[name]
    damage(build_tiny_llama(tmp_path))
    with pytest.raises(error) as caught:
        load(Load("mlx", str(tmp_path), 2))
    assert words in str(caught.value)


def test_a_path_that_is_no_directory_is_never_looked_up(tmp_path: Path) -> None:
    """A missing path is an error here, not a name to ask the hub for; a file is no model."""
    with pytest.raises(CorruptModel, match="no model at"):
        load(Load("mlx", str(tmp_path / "some/model"), 2))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnsupportedModel, match="not a model directory"):
        load(Load("mlx", str(tmp_path / "file"), 2))


def test_what_a_loaded_model_says(tmp_path: Path) -> None:
    """Sizes are those of the arrays: two layers, two heads of 16, keys and values, float32."""
    engine, *_ = load(Load("mlx", str(build_tiny_llama(tmp_path)), 3))
    assert ("mlx", 3, CONTEXT_TOKENS) == (
        engine.info.engine,
        engine.info.max_sequences,
        engine.info.context_tokens,
    )
    assert 2 * 2 * 16 * 2 * 4 == engine.info.kv_bytes_per_token
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(
        engine.info.weight_bytes, rel=0.01
    )
    engine.close()


def test_the_context_can_be_lowered_but_not_raised(tmp_path: Path) -> None:
    """`context_tokens` of the load is an upper bound."""
    directory = str(build_tiny_llama(tmp_path))
    for asked, expected in ((100, 100), (10 * CONTEXT_TOKENS, CONTEXT_TOKENS)):
        engine, *_ = load(Load("mlx", directory, 1, asked))
        assert expected == engine.info.context_tokens
        engine.close()


@pytest.mark.skipif(mx.default_device().type != mx.cpu, reason="GPUs keep the model's type")
def test_half_precision_becomes_float32_on_a_cpu(tmp_path: Path) -> None:
    """The float type MLX's CPU kernels are fast in; the weights take twice the room."""
    path = str(build_tiny_llama(tmp_path) / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    halves = {name: value.astype(mx.float16) for name, value in weights.items()}
    mx.eval(halves)
    mx.save_safetensors(path, halves)
    engine, *_ = load(Load("mlx", str(tmp_path), 1))
    assert sum(value.size * 4 for value in halves.values()) == engine.info.weight_bytes
    engine.close()


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "expected"),
    [
        ({"max_position_embeddings": 2048}, {"model_max_length": 1024}, 2048),
        ({"text_config": {"max_position_embeddings": 9000}}, {}, 9000),
        ({"n_positions": 1024}, {}, 1024),
        ({}, {"model_max_length": 3000}, 3000),
        ({}, {"model_max_length": 1e30}, 4096),
        ({"max_position_embeddings": None}, {}, 4096),
    ],
)
def test_where_the_context_length_comes_from(
    config: dict[str, object], tokenizer_config: dict[str, object], expected: int
) -> None:
    """The weights' limit, then the tokenizer's if it is a real one, then a default."""
    assert expected == context_tokens(config, tokenizer_config)


def test_end_ids_are_the_union_of_all_files() -> None:
    """One id or a list, in any file."""
    assert {2, 5, 7} == end_ids({"eos_token_id": 2}, {}, {"eos_token_id": [5, 7, None]})


def test_blas_leaves_one_core_to_the_daemon() -> None:
    """All cores but one, never none, never more than pays."""
    assert [1, 1, 3, 16] == [blas.choose_threads(cores) for cores in (1, 2, 4, 64)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring a fast BLAS")
def test_threads_that_the_user_sets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in the environment stays, and products side by side use no more cores than that."""
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for _ in range(2):  # a worker prepares twice
        ours = blas.prepare()
        assert blas.choose_threads(cores) == ours.threads
        assert min(cores, blas.MOST_THREADS) == ours.free_cores
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(cores + 3))
    theirs = blas.prepare()
    assert (cores + 3, 1, None) == (theirs.threads, theirs.free_cores, theirs.library)
    theirs.use_threads(1)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    assert blas.choose_threads(cores) == blas.prepare().threads


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring a fast BLAS")
def test_products_get_the_threads_they_are_given() -> None:
    """OpenBLAS itself says how many it uses after it was told."""
    found = blas.prepare()
    if found.library is None:
        pytest.skip("there is no OpenBLAS, or the environment says how many threads it has")
    try:
        for count in (2, 1):
            found.use_threads(count)
            assert count == found.library.openblas_get_num_threads()
    finally:
        found.use_threads(found.threads)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring a fast BLAS")
def test_a_missing_openblas_is_said(tmp_path: Path) -> None:
    """The note names what is slow and which package helps."""
    assert "libopenblas0-pthread" in blas.MISSING
    found = blas.prepare()
    assert found.is_fast == (not found.notes)
