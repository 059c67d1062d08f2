"""BERT models of the Hugging Face format written as GGUF files, for comparing engines exactly.

It does what llama.cpp's converter does to such models, and nothing about speed or quantisation:
weights stay as they are. A classifier becomes the two `cls` layers that rank pooling reads.
Source: conversion/bert.py of llama.cpp, and its tensor names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gguf import GGUFValueType, GGUFWriter, PoolingType, TokenType

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
TABLES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}
SPECIAL_KEYS = {"bos": "[CLS]", "eos": "[SEP]", "seperator": "[SEP]"}  # the key's own spelling
SPECIAL_KEYS |= {"unknown": "[UNK]", "padding": "[PAD]", "mask": "[MASK]"}


def write_bert_gguf(
    source: Path,
    target: Path,
    pooling: PoolingType,
    *,
    labels: Sequence[str] = (),
    metadata: Mapping[str, bool | int] = MappingProxyType({}),
) -> Path:
    """Convert `source`, a model's directory, to the file `target`; returns `target`.

    Args:
        source: The directory.
        target: The file.
        pooling: What the header says of pooling; with `PoolingType.RANK` the classifier goes along.
        labels: Names of the classifier's outputs.
        metadata: Keys below ``tokenizer.ggml.`` that replace the usual ones, with ``__`` for dots.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(target, "bert")
    _add_sizes(writer, config)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling)
    if labels:
        writer.add_array("bert.classifier.output_labels", list(labels))
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    _add_vocabulary(writer, described, metadata)
    names = _names(config["num_hidden_layers"])
    if pooling == PoolingType.RANK:
        names |= HEAD
    tensors = mx.load(str(source / "model.safetensors"))
    assert isinstance(tensors, dict)
    for name, values in tensors.items():
        stem, _, kind = name.removeprefix("bert.").rpartition(".")
        if stem in names:
            array: NDArray[np.float32] = np.array(values.astype(mx.float32))
            writer.add_tensor(f"{names[stem]}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _names(layers: int) -> dict[str, str]:
    inner = {
        f"encoder.layer.{layer}.{theirs}": f"blk.{layer}.{ours}"
        for layer in range(layers)
        for theirs, ours in PARTS.items()
    }
    return TABLES | inner


def _add_sizes(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])


def _add_vocabulary(
    writer: GGUFWriter, tokenizer: dict[str, Any], metadata: Mapping[str, bool | int]
) -> None:
    """Pieces as llama.cpp has them: the inside of a word bare, its beginning with a mark."""
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    pieces, kinds = [], []
    for piece in sorted(ids, key=ids.__getitem__):
        is_special = piece in special
        kinds.append(TokenType.CONTROL if is_special else TokenType.NORMAL)
        begins = "" if is_special or piece.startswith("##") else "\u2581"
        pieces.append(begins + (piece if is_special else piece.removeprefix("##")))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    values: dict[str, bool | int] = {
        f"{name}_token_id": ids[piece] for name, piece in SPECIAL_KEYS.items()
    }
    values |= {"add_bos_token": True, "add_eos_token": True, "add_sep_token": False}
    values |= {name.replace("__", "."): value for name, value in metadata.items()}
    for name, value in values.items():
        kind = GGUFValueType.BOOL if isinstance(value, bool) else GGUFValueType.UINT32
        writer.add_key_value(f"tokenizer.ggml.{name}", value, kind)
