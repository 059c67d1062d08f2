"""What a model will take: rules that are checked against known shapes and against each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lmx.catalog.gguf_header import GgufHeader, read_header
from lmx.catalog.kv_cache import CacheChoice
from lmx.catalog.memory_plan import (
    LLAMA_CACHE_BYTES,
    Device,
    MemoryPlan,
    choose_cells,
    choose_context,
    plan_gguf,
    plan_mlx,
)
from lmx.catalog.mlx_config import kv_shape, own_context_tokens, purpose, quantisation_name
from tests.raw_gguf import RawGguf, tensor

MB = 1 << 20
GB = 10**9
# Shapes of published models.
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
SLIDING_8B = LLAMA_8B | {"sliding_window_pattern": 4, "sliding_window": 3}
FOUR_BIT = {"quantization": {"bits": 4, "group_size": 64}}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
GPT_OSS = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 128,
}


@pytest.mark.parametrize(
    ("asked", "trained", "expected"),
    [(None, 8192, 8192), (2048, 8192, 2048), (9000, 8192, 8192), (None, 0, 4096), (512, 0, 512)],
)
def test_a_sequence_has_the_models_context_or_less(
    asked: int | None, trained: int, expected: int
) -> None:
    """A setting shortens the context and never lengthens it."""
    assert expected == choose_context(asked, trained)


@pytest.mark.parametrize(
    ("context", "sequences", "expected"),
    [
        (8192, 1, (8192, 8192)),  # one whole context
        (2048, 32, (2048, 32 * 1024)),  # many of the usual length
        (300, 4, (300, 1280)),  # short contexts fit all at once, in whole steps
    ],
)
def test_cells_within_the_budget(context: int, sequences: int, expected: tuple[int, int]) -> None:
    """With room enough, everything usual fits."""
    assert expected == choose_cells(context, sequences, 1024, budget=1024 * MB, is_fixed=False)


def test_a_budget_shortens_the_context_unless_somebody_asked_for_it() -> None:
    """10 MB at 10 kB a token: 1,024 cells; a context that was asked for goes before the budget."""
    assert (1024, 1024) == choose_cells(8192, 8, 10240, budget=10 * MB, is_fixed=False)
    assert (8192, 8192) == choose_cells(8192, 8, 10240, budget=10 * MB, is_fixed=True)


def test_state_that_does_not_grow_needs_no_budget() -> None:
    """Recurrent models have room for every sequence."""
    assert (4096, 4096) == choose_cells(4096, 4, 0, budget=1, is_fixed=False)


def header(context_tokens: int = 8192, **values: int) -> GgufHeader:
    """A llama of 4 layers, 8 heads of 64, of which 2 hold keys, and 1,000 tokens."""
    raw = RawGguf(tensors=(tensor("token_embd.weight", (512, 1000)),), data_bytes=512 * 1000 * 4)
    facts = {
        "block_count": 4,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "embedding_length": 512,
        "feed_forward_length": 2048,
        "context_length": context_tokens,
        **values,
    }
    return read_header(raw.with_values({f"llama.{key}": v for key, v in facts.items()}).file())


def test_a_gguf_plan_is_what_llama_cpp_allocates() -> None:
    """2 heads of 64 in 4 layers, keys and values of 2 bytes: 2,048 a token, for all cells."""
    plan = plan_gguf(header(), 5 * MB, context_tokens=None, max_sequences=16)
    assert (512 * 1000 * 4, 2048, 8192) == (
        plan.weights,
        plan.kv_bytes_per_token,
        plan.context_tokens,
    )
    assert 16 * 1024 * 2048 == plan.kv_cache
    logits_bytes = 512 * 1000 * 4
    assert logits_bytes < plan.transient < 50 * logits_bytes
    assert plan.total == plan.weights + plan.kv_cache + plan.transient


@given(
    context=st.none() | st.integers(1, 200_000),
    sequences=st.integers(1, 256),
    budget=st.none() | st.integers(1, 10**11),
)
def test_a_gguf_plan_follows_the_engines_rule(
    context: int | None, sequences: int, budget: int | None
) -> None:
    """The cache is the cells that the engine chooses, and within its budget unless asked for."""
    facts = header(131072)
    plan = plan_gguf(
        facts, 0, context_tokens=context, max_sequences=sequences, cache=CacheChoice(budget)
    )
    limit = budget or LLAMA_CACHE_BYTES
    expected = choose_cells(
        choose_context(context, 131072), sequences, 2048, budget=limit, is_fixed=context is not None
    )
    assert expected == (plan.context_tokens, plan.kv_cache // 2048)
    if context is None:
        assert plan.kv_cache <= max(limit, 256 * 2048)


def test_work_space_holds_the_logits_of_a_whole_pass() -> None:
    """A thousand more tokens to choose from are a thousand more floats for each of 512 tokens."""
    small, large = (
        plan_gguf(found, 0, context_tokens=512, max_sequences=1)
        for found in (header(), replace(header(), vocabulary_size=2000))
    )
    assert 512 * 1000 * 4 == large.transient - small.transient


def mlx(config: dict[str, Any], weights: int, device: Device = "gpu", **limits: Any) -> MemoryPlan:
    """A plan for 8 sequences."""
    options: dict[str, Any] = {"context_tokens": None, "max_sequences": 8, **limits}
    return plan_mlx(config, weights, device=device, **options)


def test_a_known_model_on_a_gpu() -> None:
    """Llama 3.1 8B in 4 bits: 128 KiB a token, so one context of 131,072 is 16 GiB."""
    plan = mlx(LLAMA_8B | FOUR_BIT, 4_517_000_000)
    assert (4_517_000_000, 128 * 1024, 131072) == (
        plan.weights,
        plan.kv_bytes_per_token,
        plan.context_tokens,
    )
    assert 16 << 30 == plan.kv_cache
    assert 0.2 * GB < plan.transient < 2 * GB


def test_the_rule_of_thumb_is_a_plan_for_short_contexts() -> None:
    """Parameters times bits / 8 times 1.2: a plan for 4,096 tokens is within a third of it."""
    plan = mlx(LLAMA_8B | FOUR_BIT, 4_517_000_000, context_tokens=4096)
    assert 8.03 * GB * 4 / 8 * 1.2 == pytest.approx(plan.total, rel=1 / 3)


@pytest.mark.parametrize(
    ("dtype", "extra", "factor"),
    [
        ("bfloat16", {}, 2.0),
        ("float16", {}, 2.0),
        ("float32", {}, 1.0),
        ("bfloat16", FOUR_BIT, 5.0 / 4.5),
        ("bfloat16", {"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, 1.0),
    ],
)
def test_a_cpu_works_in_float32(dtype: str, extra: dict[str, Any], factor: float) -> None:
    """Dense weights of 16 bits double, scales and biases of quantised ones do, too."""
    config = {**LLAMA_8B, "torch_dtype": dtype, **extra}
    assert pytest.approx(factor * GB) == mlx(config, GB, "cpu").weights
    assert GB == mlx(config, GB, "gpu").weights
    assert 256 * 1024 == mlx(config, GB, "cpu").kv_bytes_per_token


def test_the_cache_is_room_for_all_or_one_context_or_a_quarter_of_the_weights() -> None:
    """Or a GiB: whichever of the last three is most, and never more than all sequences can use."""
    token = 128 * 1024
    assert 8 * 100 * token == mlx(LLAMA_8B, 100 * GB, context_tokens=100).kv_cache
    assert 131072 * token == mlx(LLAMA_8B, GB).kv_cache
    assert 25 * GB == mlx(LLAMA_8B, 100 * GB, max_sequences=64).kv_cache
    assert 1 << 30 == mlx(LLAMA_8B, GB, context_tokens=4096).kv_cache
    assert 7 == mlx(LLAMA_8B, GB, cache=CacheChoice(7)).kv_cache


def test_a_quantised_cache_is_planned_smaller() -> None:
    """Bytes with a scale and a bias for 32 of them on MLX, with one half for 32 in GGUF."""
    choice = CacheChoice(bits=8)
    values = 32 * 8 * 128 * 2
    gpu, cpu = (mlx(LLAMA_8B, GB, device, cache=choice) for device in ("gpu", "cpu"))
    assert values * 9 // 8 == gpu.kv_bytes_per_token
    assert values * 5 // 4 == cpu.kv_bytes_per_token
    assert 131072 * gpu.kv_bytes_per_token == gpu.kv_cache
    layer_bytes = 131072 * values * 2 // 32
    assert layer_bytes <= gpu.transient - mlx(LLAMA_8B, GB).transient <= 2 * layer_bytes
    gguf = plan_gguf(header(), 0, context_tokens=None, max_sequences=16, cache=choice)
    assert 2048 * 34 // 64 == gguf.kv_bytes_per_token
    assert 16 * 1024 * gguf.kv_bytes_per_token == gguf.kv_cache


@pytest.mark.parametrize(
    ("config", "tokens", "values"),
    [
        (LLAMA_8B, 10, 10 * 32 * 8 * 128 * 2),
        (DEEPSEEK, 10, 10 * 61 * (512 + 64)),
        (DEEPSEEK | {"model_type": "deepseek_v2"}, 10, 10 * 61 * 128 * (128 + 64 + 128)),
        (GPT_OSS, 100, 100 * 4 * 2 * 64 * 2),
        (GPT_OSS, 1000, (1000 * 2 + 128 * 2) * 2 * 64 * 2),
        ({"text_config": LLAMA_8B}, 1, 32 * 8 * 128 * 2),
        (LLAMA_8B | {"linear_num_value_heads": 32}, 1, 8 * 8 * 128 * 2),
        (LLAMA_8B | {"layer_types": ["linear_attention"] * 31 + ["full_attention"]}, 1, 2048),
        (SLIDING_8B, 10, (8 * 10 + 24 * 3) * 2048),
        ({}, 1000, 0),
    ],
)
def test_what_a_sequence_keeps(config: dict[str, Any], tokens: int, values: int) -> None:
    """Grouped heads, latent attention, sliding windows and layers that keep a state only."""
    assert values == kv_shape(config).values(tokens)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FOUR_BIT, "4bit"),
        ({"quantization": {"bits": 4, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "torch.float16"}, "float16"),
        ({"quantization": "4"}, ""),
    ],
)
def test_what_a_quantisation_is_called(config: dict[str, Any], name: str) -> None:
    """As people call it in the names of models."""
    assert name == quantisation_name(config)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("LlamaForCausalLM", "generation"),
        ("Gemma3ForConditionalGeneration", "generation"),
        ("BertModel", "embedding"),
        ("XLMRobertaForSequenceClassification", "reranking"),
        ("BertForMaskedLM", "embedding"),
    ],
)
def test_what_a_class_is_for(named: str, expected: str) -> None:
    """The first class that `architectures` names decides."""
    assert expected == purpose({"architectures": [named]})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
KEYS = sorted({*LLAMA_8B, *DEEPSEEK, *GPT_OSS, "quantization", "text_config", "architectures"})


@given(
    st.dictionaries(st.sampled_from(KEYS), ANYTHING),
    st.sampled_from(["cpu", "gpu"]),
    st.booleans(),
)
def test_no_configuration_breaks_a_plan(
    config: dict[str, Any],
    device: Device,
    is_nested: bool,  # noqa: FBT001  # hypothesis passes by position
) -> None:
    """Whatever the file holds, there is a plan that is at least the weights."""
    plan = mlx({"text_config": config} if is_nested else config, GB, device)
    assert plan.weights >= GB
    assert min(plan.kv_cache, plan.transient, plan.kv_bytes_per_token) >= 0
    assert plan.context_tokens > 0
    context = own_context_tokens(config)
    assert context is None or context > 0
    assert isinstance(quantisation_name(config), str)
    assert purpose(config) in {"generation", "embedding", "reranking"}
