"""Plans for GGUF models of vectors and scores: how long a row may be, and what it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lmx.catalog.gguf_header import GgufHeader, read_header
from lmx.catalog.memory_plan import (
    LLAMA_BATCH_TOKENS,
    LLAMA_PASS_BYTES,
    LLAMA_ROW_CACHE_BYTES,
    choose_vector_sizes,
    pass_bytes,
    plan_gguf_vectors,
)
from tests.raw_gguf import Plain, RawGguf, entry, tensor

KV_BYTES = 2048


def header(architecture: str, **values: Plain) -> GgufHeader:
    """A model of width 512 with 1,000 tokens and 2 heads of 64 for keys in 4 layers."""
    raw = RawGguf(
        entries=(entry("general.architecture", architecture),),
        tensors=(tensor("token_embd.weight", (512, 1000)),),
        data_bytes=512 * 1000 * 4,
    )
    facts: dict[str, Plain] = {
        "block_count": 4,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "embedding_length": 512,
        "feed_forward_length": 2048,
        "context_length": 8192,
    }
    facts |= {name.replace("__", "."): value for name, value in values.items()}
    named = {f"{architecture}.{key}": value for key, value in facts.items()}
    return read_header(raw.with_values(named).file())


BERT, QWEN3 = header("bert"), header("qwen3", pooling_type=3)


@pytest.mark.parametrize(
    ("values", "purpose", "pooling"),
    [
        ({"bert.pooling_type": 1}, "embedding", "mean"),
        ({"bert.pooling_type": 2}, "embedding", "cls"),
        ({"bert.pooling_type": 0}, "reranking", "rank"),
        ({"bert.pooling_type": 4}, "reranking", "rank"),
        ({}, "reranking", "rank"),
    ],
)
def test_a_head_beside_a_pooling_is_left_over(
    values: dict[str, Plain], purpose: str, pooling: str
) -> None:
    """Only a file that names no pooling is a reranker for its classifier's sake."""
    raw = RawGguf(
        entries=(entry("general.architecture", "bert"),), tensors=(tensor("cls.weight", (8,)),)
    )
    found = read_header(raw.with_values(values).file())
    assert (purpose, pooling) == (found.purpose, found.vector_pooling)


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("bert", "mean"), ("nomic-bert", "mean"), ("jina-bert-v2", "mean"), ("qwen3", "last")],
)
def test_pooling_by_custom(architecture: str, pooling: str) -> None:
    """Encoders that say nothing are pooled by the mean, decoders by their last token."""
    found = header(architecture)
    assert (pooling, architecture == "qwen3") == (found.vector_pooling, found.is_causal)


@pytest.mark.parametrize(
    ("found", "has_cache", "reads_in_parts"),
    [
        (BERT, False, False),
        (QWEN3, True, True),
        (header("qwen3", pooling_type=4), True, True),
        (header("qwen3"), True, True),
        (header("qwen3", pooling_type=1), True, False),
        (header("qwen3", pooling_type=3, attention__causal=False), True, False),
        (header("llama-embed", pooling_type=1), True, False),
        (header("llama-embed", pooling_type=3), True, False),
        (header("gemma-embedding", pooling_type=1), False, False),
        (header("bert", pooling_type=4), False, False),
    ],
)
def test_who_reads_a_row_in_parts(
    found: GgufHeader, *, has_cache: bool, reads_in_parts: bool
) -> None:
    """A causal model whose last token says it all; every other one has a row in one pass."""
    assert (has_cache, reads_in_parts) == (found.has_cache, found.reads_in_parts)
    sizes = choose_vector_sizes(found, asked=2000)
    assert 2000 == sizes.row_tokens
    assert (LLAMA_BATCH_TOKENS if reads_in_parts else 2000) == sizes.pass_tokens
    assert (2048 if has_cache else 0) == sizes.cells


def test_a_plan_is_weights_and_cache_and_one_pass() -> None:
    """An encoder keeps no keys and values; its rows stay with nobody, so no token costs any."""
    plan = plan_gguf_vectors(BERT, 0, context_tokens=512)
    assert (512 * 1000 * 4, 0, 0, 512) == (
        plan.weights,
        plan.kv_cache,
        plan.kv_bytes_per_token,
        plan.context_tokens,
    )
    assert pass_bytes(BERT, choose_vector_sizes(BERT, asked=512)) == plan.transient
    decoder = plan_gguf_vectors(QWEN3, 0)
    assert (8192 * KV_BYTES, 0, 8192) == (
        decoder.kv_cache,
        decoder.kv_bytes_per_token,
        decoder.context_tokens,
    )


def test_longer_passes_take_more() -> None:
    """The batch that the engine is asked for is the least pass."""
    small, large = (plan_gguf_vectors(QWEN3, 0, batch_tokens=n) for n in (512, 1024))
    assert 2 * small.transient == large.transient
    assert small.kv_cache == large.kv_cache


@given(vocabulary=st.integers(1, 10**6), asked=st.none() | st.integers(1, 10**5))
def test_an_encoders_row_fits_its_budget(vocabulary: int, asked: int | None) -> None:
    """The longest that does, unless somebody asked for another or the model has less."""
    found = replace(BERT, vocabulary_size=vocabulary, context_tokens=100_000)
    sizes = choose_vector_sizes(found, asked=asked)
    if asked is not None:
        assert asked == sizes.row_tokens
    elif sizes.row_tokens > 256:
        assert pass_bytes(found, sizes._replace(pass_tokens=sizes.row_tokens)) <= LLAMA_PASS_BYTES
        longer = sizes._replace(pass_tokens=sizes.row_tokens + 1)
        assert pass_bytes(found, longer) > LLAMA_PASS_BYTES
    assert max(LLAMA_BATCH_TOKENS, sizes.row_tokens) == sizes.pass_tokens


@given(
    context=st.integers(1, 10**8),
    asked=st.none() | st.integers(1, 10**6),
    budget=st.none() | st.integers(1, 10**11),
)
def test_a_decoders_cache_fits_its_budget(
    context: int, asked: int | None, budget: int | None
) -> None:
    """Unless somebody asked for a longer row; it holds the longest row in any case."""
    found = replace(QWEN3, context_tokens=context)
    sizes = choose_vector_sizes(found, asked=asked, cache_bytes=budget)
    assert max(sizes.row_tokens, sizes.pass_tokens) <= sizes.cells
    limit = budget or LLAMA_ROW_CACHE_BYTES
    if asked is None:
        assert sizes.cells * KV_BYTES <= max(limit, LLAMA_BATCH_TOKENS * KV_BYTES)
    else:
        assert min(asked, context) == sizes.row_tokens
