"""What a directory of the Hugging Face format is for, and what a model of vectors will take."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.catalog.facts import read_mlx_facts
from lmx.catalog.memory_plan import MLX_POOL_BYTES, VECTOR_BATCH_TOKENS, Device, plan_vectors
from lmx.catalog.mlx_config import ENCODERS
from lmx.catalog.mlx_files import mlx_purpose
from lmx.engines.mlx.vectors.decoders import PART_TOKENS
from lmx.errors import CorruptModel
from tests.model_folders import make_mlx, make_repository, write

MIB = 1 << 20

CASES = {
    "a chat model": ("m/chat", "LlamaForCausalLM", False, "generation"),
    "a chat model of embedders": ("rerankers/chat", "LlamaForCausalLM", False, "generation"),
    "an encoder": ("m/bert", "BertModel", False, "embedding"),
    "an encoder as trained": ("m/bert", "XLMRobertaForMaskedLM", False, "embedding"),
    "an encoder with modules": ("m/bert", "BertModel", True, "embedding"),
    "a decoder with modules": ("m/Qwen3-Embedding", "Qwen3ForCausalLM", True, "embedding"),
    "a decoder alone": ("m/e5", "MistralModel", False, "embedding"),
    "a cross-encoder": ("m/x", "BertForSequenceClassification", False, "reranking"),
    "a cross-encoder with modules": ("m/x", "BertForSequenceClassification", True, "reranking"),
    "a decoder that ranks": ("m/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", False, "reranking"),
    "the same with modules": ("m/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", True, "reranking"),
    "an embedder by another name": ("m/rerank-bert", "BertModel", False, "embedding"),
}


@pytest.mark.parametrize("case", CASES)
def test_purposes(tmp_path: Path, case: str) -> None:
    """Class, modules and, for decoders, the name decide; the inventory and a load agree."""
    name, named, has_modules, expected = CASES[case]
    directory = make_mlx(tmp_path / name, architectures=[named])
    if has_modules:
        write(directory / "modules.json", "[]")
    assert expected == mlx_purpose(directory)
    files = {path.name: path.stat() for path in directory.iterdir()}
    assert expected == read_mlx_facts(str(directory), files).purpose


def test_a_revision_is_called_by_its_repository(tmp_path: Path) -> None:
    """In the Hugging Face cache the directory itself is named by a hash."""
    names = ("model.safetensors",)
    revision = make_repository(tmp_path, "Qwen/Qwen3-Reranker-0.6B", names)
    write(revision / "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    assert "reranking" == mlx_purpose(revision)


def test_a_directory_without_configuration(tmp_path: Path) -> None:
    """Nothing can be said of it."""
    with pytest.raises(CorruptModel, match="config"):
        mlx_purpose(tmp_path)


MINI_LM: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}


def plan(config: dict[str, Any], weight_bytes: int, device: Device) -> Any:
    """With the engine's own batches."""
    batch_tokens = VECTOR_BATCH_TOKENS[device]
    return plan_vectors(config, weight_bytes, batch_tokens=batch_tokens, device=device)


def test_an_encoder_s_plan_is_near_what_it_takes() -> None:
    """all-MiniLM-L6-v2 takes 86 MiB and up to 100 MiB more in a batch, and keeps a pool."""
    found = plan(MINI_LM, 87 * MIB, "cpu")
    assert (87 * MIB, 0, 0) == (found.weights, found.kv_cache, found.kv_bytes_per_token)
    assert 86 * MIB <= found.transient - MLX_POOL_BYTES["cpu"] <= 200 * MIB
    assert 512 == found.context_tokens


def test_half_weights_become_float32_on_a_cpu() -> None:
    """An encoder in float16 takes twice its files there, and no more on a GPU."""
    half = MINI_LM | {"torch_dtype": "float16"}
    assert 2 * 40 * MIB == plan(half, 40 * MIB, "cpu").weights
    assert 40 * MIB == plan(half, 40 * MIB, "gpu").weights


def test_a_decoder_s_longest_row_has_its_cache() -> None:
    """Keys and values of a whole context, and scores of one part of it, are in the plan."""
    found = plan(QWEN3, 1200 * MIB, "gpu")
    cache_bytes = 2 * 2 * 8 * 128 * 28 * 32768
    assert cache_bytes <= found.transient - MLX_POOL_BYTES["gpu"] <= 2 * cache_bytes
    scores_bytes = 4 * 2 * 16 * PART_TOKENS * 32768
    assert plan(QWEN3, 1200 * MIB, "cpu").transient > 2 * cache_bytes + scores_bytes


def test_longer_rows_than_a_batch_count() -> None:
    """An encoder with room for 8,192 tokens computes them at once."""
    long = MINI_LM | {"model_type": "modernbert", "max_position_embeddings": 8192}
    work = [plan(config, 0, "cpu").transient - MLX_POOL_BYTES["cpu"] for config in (MINI_LM, long)]
    assert 2 * work[0] == work[1]


@given(
    st.sampled_from([*sorted(ENCODERS), "llama", "nova"]),
    st.dictionaries(st.sampled_from(sorted(QWEN3)[1:]), st.none() | st.integers() | st.text()),
    st.sampled_from(["cpu", "gpu"]),
)
def test_no_configuration_breaks_a_plan(kind: str, config: dict[str, Any], device: Device) -> None:
    """Whatever the file holds, there is a plan that is at least the weights."""
    found = plan(config | {"model_type": kind}, MIB, device)
    assert found.weights >= MIB
    assert found.transient >= MLX_POOL_BYTES[device]
    assert found.context_tokens > 0
