"""Encoders and heads in numpy and float64, one row at a time: what the engines are held against.

Written from the papers and transformers' documentation alone; it shares no code with LMX. Slow and
plain on purpose: no batches, no padding, no masks but the window itself.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.float32]]

erf = np.vectorize(math.erf)


def gelu(x: Array) -> Array:
    """GELU: x times the share of the normal distribution below x."""
    found: Array = x * (1 + erf(x / math.sqrt(2))) / 2
    return found


def softmax(x: Array) -> Array:
    """Over the last axis."""
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    found: Array = shares / shares.sum(axis=-1, keepdims=True)
    return found


class Reader:
    """Layers by name."""

    def __init__(self, tensors: Tensors, prefix: str, epsilon: float) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._epsilon = epsilon

    def tensor(self, name: str) -> Array:
        """In float64."""
        return self._tensors[self._prefix + name].astype(np.float64)

    def linear(self, name: str, x: Array) -> Array:
        """With a bias if there is one."""
        found = x @ self.tensor(f"{name}.weight").T
        has_bias = f"{self._prefix}{name}.bias" in self._tensors
        return found + self.tensor(f"{name}.bias") if has_bias else found

    def norm(self, name: str, x: Array) -> Array:
        """Over the last axis."""
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        found = scaled * self.tensor(f"{name}.weight")
        has_bias = f"{self._prefix}{name}.bias" in self._tensors
        return found + self.tensor(f"{name}.bias") if has_bias else found


def bert_states(
    config: Mapping[str, Any], tensors: Tensors, row: tuple[list[int], list[int]], prefix: str = ""
) -> Array:
    """Hidden states of one row of ids and segments through BERT or XLM-RoBERTa: (L, D)."""
    ids, type_ids = row
    read = Reader(tensors, prefix, config["layer_norm_eps"])
    is_roberta = config["model_type"] == "xlm-roberta"
    first = config["pad_token_id"] + 1 if is_roberta else 0
    table = "embeddings.{}_embeddings.weight"
    x = read.tensor(table.format("word"))[ids]
    x = x + read.tensor(table.format("position"))[first : first + len(ids)]
    segments = [0] * len(ids) if is_roberta or not type_ids else type_ids
    x = read.norm("embeddings.LayerNorm", x + read.tensor(table.format("token_type"))[segments])
    for layer in range(config["num_hidden_layers"]):
        here = f"encoder.layer.{layer}"
        parts = [
            read.linear(f"{here}.attention.self.{name}", x) for name in ("query", "key", "value")
        ]
        mixed = np.concatenate(
            [
                softmax(q @ k.T / math.sqrt(q.shape[1])) @ v
                for q, k, v in zip(
                    *(np.split(part, config["num_attention_heads"], axis=1) for part in parts),
                    strict=True,
                )
            ],
            axis=1,
        )
        attended = read.linear(f"{here}.attention.output.dense", mixed)
        x = read.norm(f"{here}.attention.output.LayerNorm", x + attended)
        inner = gelu(read.linear(f"{here}.intermediate.dense", x))
        x = read.norm(f"{here}.output.LayerNorm", x + read.linear(f"{here}.output.dense", inner))
    return x


def modernbert_states(
    config: Mapping[str, Any], tensors: Tensors, ids: list[int], prefix: str = ""
) -> Array:
    """Hidden states of one row of ids through ModernBERT: (L, D)."""
    read = Reader(tensors, prefix, config["norm_eps"])
    x = read.norm("embeddings.norm", read.tensor("embeddings.tok_embeddings.weight")[ids])
    places = np.arange(len(ids))
    distances = abs(places[:, None] - places[None, :])
    for layer in range(config["num_hidden_layers"]):
        here = f"layers.{layer}"
        is_global = layer % config["global_attn_every_n_layers"] == 0
        theta = config["global_rope_theta" if is_global else "local_rope_theta"]
        is_hidden = distances > (len(ids) if is_global else config["local_attention"] // 2)
        normed = read.norm(f"{here}.attn_norm", x) if layer else x
        heads = []
        width = config["hidden_size"] // config["num_attention_heads"]
        whole = read.linear(f"{here}.attn.Wqkv", normed)
        for head in range(config["num_attention_heads"]):
            q, k, v = (
                whole[:, start : start + width]
                for start in (part * config["hidden_size"] + head * width for part in range(3))
            )
            scores = rotate(q, theta) @ rotate(k, theta).T / math.sqrt(width)
            heads.append(softmax(np.where(is_hidden, -np.inf, scores)) @ v)
        x = x + read.linear(f"{here}.attn.Wo", np.concatenate(heads, axis=1))
        both = read.linear(f"{here}.mlp.Wi", read.norm(f"{here}.mlp_norm", x))
        value, gate = np.split(both, 2, axis=1)
        x = x + read.linear(f"{here}.mlp.Wo", gelu(value) * gate)
    return read.norm("final_norm", x)


def rotate(x: Array, theta: float) -> Array:
    """Rotary positions: pairs are a number of the first half and its like of the second."""
    length, width = x.shape
    speeds = theta ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * speeds[None, :]
    first, second = np.split(x, 2, axis=1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)


def bert_score(tensors: Tensors, states: Array) -> Array:
    """Logits of ``BertForSequenceClassification``."""
    pooled = np.tanh(Reader(tensors, "bert.", 0).linear("pooler.dense", states[0]))
    return Reader(tensors, "", 0).linear("classifier", pooled)


def roberta_score(tensors: Tensors, states: Array) -> Array:
    """Logits of ``XLMRobertaForSequenceClassification``."""
    read = Reader(tensors, "", 0)
    return read.linear("classifier.out_proj", np.tanh(read.linear("classifier.dense", states[0])))


def modernbert_score(config: Mapping[str, Any], tensors: Tensors, states: Array) -> Array:
    """Logits of ``ModernBertForSequenceClassification``."""
    read = Reader(tensors, "", config["norm_eps"])
    pooled = states.mean(axis=0) if config["classifier_pooling"] == "mean" else states[0]
    hidden = read.norm("head.norm", gelu(read.linear("head.dense", pooled)))
    return read.linear("classifier", hidden)


def share(logits: Array) -> float:
    """The score: of one label its logistic, of two the second's share."""
    if logits.shape == (1,):
        return float(1 / (1 + np.exp(-logits[0])))
    return float(softmax(logits)[1])


def unit(vector: Array) -> Array:
    """Scaled to length 1."""
    found: Array = vector / np.linalg.norm(vector)
    return found
