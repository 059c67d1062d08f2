"""What tiny models answer with, computed one row at a time in float64 with NumPy alone.

It shares no code with any engine, and reads weights by the names they have in the tests' files.

Shapes: T tokens, D width, H heads, S numbers of a head.
"""

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny_vector_gguf import HEAD_SIZE, HEADS, KV_HEADS, LAYERS, NORM_EPSILON, ROPE_BASE

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.float32]]


def bert_hidden(weights: Weights, config: Mapping[str, Any], ids: list[int]) -> Array:
    """BERT's last hidden states, all tokens of the first segment. -> (T, D)."""
    read = _Reader(weights, "bert." if "bert.pooler.dense.weight" in weights else "")
    tables = "embeddings.{}_embeddings.weight"
    hidden = read(tables.format("word"))[ids]
    hidden = hidden + read(tables.format("position"))[: len(ids)]
    hidden = hidden + read(tables.format("token_type"))[0]
    hidden = read.norm("embeddings.LayerNorm", hidden)
    heads = config["num_attention_heads"]
    for layer in range(config["num_hidden_layers"]):
        here = f"encoder.layer.{layer}"
        query, key, value = (
            _split(read.linear(f"{here}.attention.self.{name}", hidden), heads)
            for name in ("query", "key", "value")
        )
        seen = _attend(query, key, value)
        hidden = read.norm(
            f"{here}.attention.output.LayerNorm",
            hidden + read.linear(f"{here}.attention.output.dense", seen),
        )
        inner = _gelu(read.linear(f"{here}.intermediate.dense", hidden))
        hidden = read.norm(
            f"{here}.output.LayerNorm", hidden + read.linear(f"{here}.output.dense", inner)
        )
    return hidden


def bert_score(weights: Weights, config: Mapping[str, Any], ids: list[int]) -> float:
    """A BERT cross-encoder's score: the sigmoid of its one output."""
    read = _Reader(weights, "")
    pooled = np.tanh(read.linear("bert.pooler.dense", bert_hidden(weights, config, ids)[0]))
    logit = float(read.linear("classifier", pooled)[0])
    return 1 / (1 + float(np.exp(-logit)))


def qwen3_hidden(weights: Weights, ids: list[int]) -> Array:
    """Qwen3's hidden states after its last norm. -> (T, D)."""
    read = _Reader(weights, "")
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
    logits = _Reader(weights, "")("cls.output.weight") @ qwen3_hidden(weights, ids)[-1]
    return 1 / (1 + float(np.exp(logits[1] - logits[0])))


def unit(vector: Array) -> Array:
    """The same direction, of length 1."""
    scaled: Array = vector / np.linalg.norm(vector)
    return scaled


class _Reader:
    """Weights in float64, by name."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights = weights
        self._prefix = prefix

    def __call__(self, name: str) -> Array:
        return self._weights[self._prefix + name].astype(np.float64)

    def linear(self, name: str, x: Array) -> Array:
        result: Array = x @ self(f"{name}.weight").T + self(f"{name}.bias")
        return result

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        result: Array = scaled * self(f"{name}.weight") + self(f"{name}.bias")
        return result


def _split(x: Array, heads: int) -> Array:
    """(T, H * S) -> (H, T, S)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def _attend(query: Array, key: Array, value: Array, *, is_causal: bool = False) -> Array:
    """(H, T, S) each -> (T, H * S)."""
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    if is_causal:
        tokens = scores.shape[-1]
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    seen: Array = (shares @ value).swapaxes(0, 1)
    return seen.reshape(len(seen), -1)


def _gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


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
