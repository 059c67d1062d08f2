"""Decoders in numpy and float64, one row at a time: what the engines are held against.

It shares no code with any engine, and reads weights by the names they have in GGUF files.

Shapes: T tokens, D width, H heads, S numbers of a head.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tests.numpy_encoders import softmax
from tests.tiny_vector_gguf import HEAD_SIZE, HEADS, KV_HEADS, LAYERS, NORM_EPSILON, ROPE_BASE

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.float32]]


def qwen3_hidden(weights: Weights, ids: list[int]) -> Array:
    """Qwen3's hidden states after its last norm. -> (T, D)."""
    read = partial(_wide, weights)
    hidden = read("token_embd.weight")[ids]
    for layer in range(LAYERS):
        here = f"blk.{layer}"
        normed = _rms(hidden, read(f"{here}.attn_norm.weight"))
        query = _split(normed @ read(f"{here}.attn_q.weight").T, HEADS)
        key = _split(normed @ read(f"{here}.attn_k.weight").T, KV_HEADS)
        value = _split(normed @ read(f"{here}.attn_v.weight").T, KV_HEADS)
        query = _rotate(_rms(query, read(f"{here}.attn_q_norm.weight")))
        key = _rotate(_rms(key, read(f"{here}.attn_k_norm.weight")))
        key, value = (np.repeat(x, HEADS // KV_HEADS, axis=0) for x in (key, value))
        seen = _attend(query, key, value, is_causal=True)
        hidden = hidden + seen @ read(f"{here}.attn_output.weight").T
        normed = _rms(hidden, read(f"{here}.ffn_norm.weight"))
        gate = normed @ read(f"{here}.ffn_gate.weight").T
        inner = gate / (1 + np.exp(-gate)) * (normed @ read(f"{here}.ffn_up.weight").T)
        hidden = hidden + inner @ read(f"{here}.ffn_down.weight").T
    return _rms(hidden, read("output_norm.weight"))


def qwen3_yes(weights: Weights, ids: list[int]) -> float:
    """How likely the first of two outputs is, after the last token."""
    logits = _wide(weights, "cls.output.weight") @ qwen3_hidden(weights, ids)[-1]
    return 1 / (1 + float(np.exp(logits[1] - logits[0])))


def _wide(weights: Weights, name: str) -> Array:
    return weights[name].astype(np.float64)


def _split(x: Array, heads: int) -> Array:
    """(T, H * S) -> (H, T, S)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def _attend(query: Array, key: Array, value: Array, *, is_causal: bool = False) -> Array:
    """(H, T, S) each -> (T, H * S)."""
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    if is_causal:
        tokens = scores.shape[-1]
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    seen: Array = (softmax(scores) @ value).swapaxes(0, 1)
    return seen.reshape(len(seen), -1)


def _rms(x: Array, weight: Array) -> Array:
    scaled: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + NORM_EPSILON) * weight
    return scaled


def _rotate(x: Array) -> Array:
    """Each number with the one half a head further on. (H, T, S) -> the same."""
    half = HEAD_SIZE // 2
    angles = np.outer(np.arange(x.shape[1]), ROPE_BASE ** (-np.arange(half) / half))
    first, second = x[..., :half], x[..., half:]
    cosines, sines = np.cos(angles), np.sin(angles)
    return np.concatenate(
        [first * cosines - second * sines, first * sines + second * cosines], axis=-1
    )
