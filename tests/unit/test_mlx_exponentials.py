"""Attention and gates say what mlx-lm's own say, where MLX's exponentials are slow."""

import json
import platform
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import base, llama
from mlx_lm.models.activations import swiglu
from mlx_lm.models.cache import make_prompt_cache

from lmx.engines.mlx.exponentials import (
    LEAST_SCORES,
    MOST_SCORES,
    SLOW_MACHINES,
    TILE_SCORES,
    attend,
    avoid_slow_exponentials,
    gate_silu,
    softmax_attention,
)
from lmx.engines.mlx.loading import load_generator
from tests.random_models import KINDS, random_model
from tests.tiny_models import build_tiny_llama

# Several blocks, the last of them smaller, of several tiles each.
MANY = (1, 8, 2, 300, 5000)
assert MANY[1] * MANY[3] * MANY[4] > MOST_SCORES > 2 * TILE_SCORES
is_slow = platform.machine() in SLOW_MACHINES
needs_slow = pytest.mark.skipif(not is_slow, reason="MLX has vectors for exponentials here")


def draw(*shape: int) -> mx.array:
    """Some numbers."""
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


def masks(batch: int, heads: int, tokens: int, seen: int) -> list[Any]:
    """Every kind of mask that models and caches make."""
    causal = base.create_causal_mask(tokens, seen - tokens)
    left = base.create_causal_mask(tokens, seen - tokens, left_padding=mx.array([9, 0][:batch]))
    nothing = mx.zeros((tokens, seen), dtype=mx.bool_)
    added = mx.where(causal, 0.0, -1e9) + draw(heads, 1, seen)
    window = base.create_causal_mask(tokens, seen - tokens, window_size=16)
    return [None, "causal", causal, left, nothing, added, window, mx.where(causal, 0.0, -mx.inf)]


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize(
    ("batch", "heads", "groups", "tokens", "seen"),
    [
        (1, 4, 2, 30, 600),
        (2, 4, 4, 7, 90),
        (2, 6, 2, 1, 700),
        (1, 2, 1, 50, 50),
        MANY,
    ],
)
def test_attention_is_the_librarys(
    batch: int, heads: int, groups: int, tokens: int, seen: int, kind: int
) -> None:
    """With every mask, for one token or many, in one block and tile or several."""
    queries, keys = draw(batch, heads, tokens, 16), draw(batch, groups, seen, 16)
    values = draw(batch, groups, seen, 24)
    mask = masks(batch, heads, tokens, seen)[kind]
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
    found = softmax_attention(queries, keys, values, scale=0.3, mask=mask)
    assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
    np.testing.assert_allclose(np.array(expected), np.array(found), atol=1e-5)


@needs_slow
def test_a_long_prompt_takes_one_block_of_memory() -> None:
    """The scores of a block are gone before those of the next but one are there."""
    queries, keys, values = draw(1, 8, 300, 16), draw(1, 2, 12_000, 16), draw(1, 2, 12_000, 16)
    mx.eval(queries, keys, values)
    before_bytes = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(softmax_attention(queries, keys, values, scale=0.3, mask="causal"))
    block_bytes = 4 * MOST_SCORES
    assert 8 * 300 * 12_000 * 4 > 3 * block_bytes
    assert mx.get_peak_memory() - before_bytes < 2.3 * block_bytes


def test_what_is_not_plain_is_left_to_the_library() -> None:
    """Sinks, half types and quantised keys, to the bit; and few scores, which are faster there."""
    queries, keys = draw(1, 4, 40, 64), draw(1, 2, 200, 64)
    values = draw(1, 2, 200, 64)
    assert 4 * 40 * 200 > LEAST_SCORES
    library = base.scaled_dot_product_attention
    halves = [part.astype(mx.float16) for part in (queries, keys, values)]
    few = [part[:, :, :5] for part in (queries, keys, values)]
    for ids in (halves, few):
        expected = library(*ids, cache=None, scale=0.2, mask="causal")
        assert mx.array_equal(expected, attend(*ids, cache=None, scale=0.2, mask="causal")).item()
    sinks = draw(4)
    expected = library(queries, keys, values, None, 0.2, None, sinks=sinks)
    found = attend(queries, keys, values, None, 0.2, mask=None, sinks=sinks)
    assert mx.array_equal(expected, found).item()

    class Quantised:
        bits, group_size = 8, 32

    quantised = [mx.quantize(part, group_size=32, bits=8) for part in (keys, values)]
    expected = library(mx.array(queries), *quantised, Quantised(), 0.2, None)
    found = attend(mx.array(queries), *quantised, cache=Quantised(), scale=0.2, mask=None)
    assert mx.array_equal(expected, found).item()


def test_gates_are_the_librarys() -> None:
    """Over the whole range, and for other types."""
    gate = mx.concatenate([mx.linspace(-200, 200, 4001), draw(999)]).reshape(50, 100)
    x = draw(50, 100)
    np.testing.assert_allclose(np.array(swiglu(gate, x)), np.array(gate_silu(gate, x)), atol=3e-6)
    gate, x = gate.astype(mx.bfloat16), x.astype(mx.bfloat16)
    assert mx.array_equal(swiglu(gate, x), gate_silu(gate, x)).item()


@needs_slow
@pytest.mark.parametrize("kind", KINDS)
def test_models_say_the_same(kind: str) -> None:
    """Each kind of layer, from a prompt's first piece on, and token by token."""
    model, token_ids = random_model(kind), mx.arange(2 * 150).reshape(2, 150) % 200
    expected = [forward(model, token_ids) for _ in range(2)]
    avoid_slow_exponentials(model)
    found = forward(model, token_ids)
    assert mx.array_equal(*expected).item()
    assert mx.allclose(expected[0], found, atol=1e-3, rtol=1e-3).item()
    assert mx.array_equal(expected[0].argmax(-1), found.argmax(-1)).item()


def forward(model: Any, token_ids: mx.array) -> mx.array:
    """Logits in two pieces and a token."""
    cache = make_prompt_cache(model)
    pieces = (token_ids[:, :70], token_ids[:, 70:149], token_ids[:, 149:])
    return mx.concatenate([model(piece, cache=cache) for piece in pieces], axis=1)


@needs_slow
def test_layers_call_these_and_mlx_lm_stays_as_it_is() -> None:
    """Only of the model that was given; a second time changes nothing."""
    model, other = random_model("plain"), random_model("plain")
    for _ in range(2):
        avoid_slow_exponentials(model)
        assert names_of(model) == (attend, gate_silu)
    assert isinstance(model.layers[0].self_attn, llama.Attention)
    library = (base.scaled_dot_product_attention, swiglu)
    assert library == names_of(other)
    assert library == (llama.scaled_dot_product_attention, llama.swiglu)
    assert type(model.layers[0].self_attn) is type(model.layers[1].self_attn)
    assert type(model.model.norm) is type(other.model.norm)


def names_of(model: Any) -> tuple[Any, Any]:
    """What its layers call for attention and gates."""
    layer = model.layers[0]
    attention, gate = type(layer.self_attn).__call__, type(layer.mlp).__call__
    names = attention.__globals__["scaled_dot_product_attention"], gate.__globals__["swiglu"]
    return names[0], names[1]


def test_elsewhere_nothing_changes() -> None:
    """On ARM MLX has vectors of its own."""
    model = random_model("plain")
    avoid_slow_exponentials(model, "arm64")
    assert (base.scaled_dot_product_attention, swiglu) == names_of(model)


@needs_slow
def test_a_loaded_model_has_them(tmp_path: Path) -> None:
    """The worker's way."""
    directory = build_tiny_llama(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    assert (attend, gate_silu) == names_of(load_generator(directory, config, is_fast=True))


@needs_slow
def test_mlx_is_still_slow_at_exponentials() -> None:
    """Once it is not, none of this is needed: then its time is numpy's, not ten times that."""
    numbers = draw(1 << 20)
    mx.eval(numbers)
    array = np.array(numbers)
    ours = min(timed(lambda: np.exp(array)) for _ in range(5))
    theirs = min(timed(lambda: mx.eval(mx.exp(numbers))) for _ in range(5))
    assert theirs > 3 * ours


def timed(work: Any) -> float:
    """Seconds."""
    began_s = perf_counter()
    work()
    return perf_counter() - began_s
