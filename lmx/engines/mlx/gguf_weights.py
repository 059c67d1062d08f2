"""A llama GGUF's tensors as one safetensors file under MLX's names.

Works tensor by tensor with numpy alone, so memory stays at the largest tensor and the importing
process never submits work to a GPU that a serving process owns. Knows nothing about tokenizers.
Legend: D width, H heads, K key-value heads, S head size, F feed-forward width, V vocabulary.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lmx.engines.mlx.gguf_source import GgufSource
from lmx.errors import CorruptModel, UnsupportedModel

# Name in safetensors and bytes per value.
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class LlamaShape(msgspec.Struct, frozen=True):
    """The sizes that fix every tensor of a llama model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int


class _Tensor(msgspec.Struct, frozen=True):
    """One tensor to convert: its two names, its shape, and heads if its rows are interleaved."""

    gguf_name: str
    mlx_name: str
    shape: tuple[int, ...]
    rotary_heads: int = 0


def read_shape(source: GgufSource) -> LlamaShape:
    """The model's sizes from its metadata.

    Raises:
        CorruptModel: A size is missing or cannot be.
    """
    heads = source.integer("llama.attention.head_count")
    width = source.integer("llama.embedding_length")
    if heads < 1 or width < heads:
        raise CorruptModel(f"{source.path.name} claims {heads} heads in a width of {width}")
    return LlamaShape(
        layers=source.integer("llama.block_count"),
        width=width,
        heads=heads,
        kv_heads=source.integer("llama.attention.head_count_kv", heads),
        head_size=source.integer("llama.attention.key_length", width // heads),
        feed_forward=source.integer("llama.feed_forward_length"),
        vocabulary=len(source.texts("tokenizer.ggml.tokens")),
    )


def is_tied(source: GgufSource) -> bool:
    """Whether the output projection is the embedding."""
    return "output.weight" not in source.tensors


def write_weights(
    source: GgufSource,
    target: Path,
    *,
    shape: LlamaShape,
    dtype: str,
    on_progress: Callable[[int, int], None],
) -> None:
    """Dequantize every tensor into `target`.

    Args:
        source: The open GGUF file.
        target: The safetensors file to write.
        shape: As `read_shape` gives it.
        dtype: A key of `DTYPES`.
        on_progress: Called with bytes written so far and in all.

    Raises:
        CorruptModel: A tensor is missing or has another shape than the sizes demand.
        UnsupportedModel: There is a tensor no plain llama model has.
    """
    plan = _plan(shape, tied=is_tied(source))
    _check(source, plan)
    header, total = _header(plan, dtype)
    done = 0
    with target.open("wb") as file:
        file.write(header)
        for tensor in plan:
            values = source.values(tensor.gguf_name)
            if tensor.rotary_heads:
                values = values[_half_split_rows(len(values), tensor.rotary_heads)]
            encoded = encode_values(values, dtype)
            file.write(encoded.data)
            done += encoded.nbytes
            on_progress(done, total)
        file.flush()
        os.fsync(file.fileno())


def encode_values(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Values in the wanted type, little-endian and contiguous; bfloat16 as its 16 bits.

    Raises:
        UnsupportedModel: A value is too large for float16.
    """
    if dtype == "float32":
        return np.ascontiguousarray(values, dtype="<f4")
    if dtype == "float16":
        with np.errstate(over="ignore"):
            short = np.ascontiguousarray(values, dtype="<f2")
        if not np.isfinite(short).all():
            raise UnsupportedModel("a weight is too large for float16; bfloat16 holds it")
        return short
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    # Round to nearest, ties to even, as hardware does; the values are known to be finite.
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = bits + np.uint32(0x7FFF) + odd
    halves = np.empty(values.shape, dtype="<u2")
    np.right_shift(rounded, np.uint32(16), out=halves, casting="unsafe")
    return halves


def _half_split_rows(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """Row order that undoes llama.cpp's interleaving of the rotary halves.

    Source: llama.cpp, conversion of LlamaModel, `permute`.
    """
    pairs = np.arange(rows).reshape(heads, rows // heads // 2, 2)  # (H, S/2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)  # (H * S,)


def _plan(shape: LlamaShape, *, tied: bool) -> list[_Tensor]:
    """Every tensor of a llama model with these sizes."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    width, wide = shape.width, shape.feed_forward
    plan = [
        _Tensor("token_embd.weight", "model.embed_tokens.weight", (shape.vocabulary, width)),
        _Tensor("output_norm.weight", "model.norm.weight", (width,)),
    ]
    if not tied:
        plan.append(_Tensor("output.weight", "lm_head.weight", (shape.vocabulary, width)))
    per_layer: list[tuple[str, str, tuple[int, ...], int]] = [
        ("attn_norm", "input_layernorm", (width,), 0),
        ("attn_q", "self_attn.q_proj", (queries, width), shape.heads),
        ("attn_k", "self_attn.k_proj", (keys, width), shape.kv_heads),
        ("attn_v", "self_attn.v_proj", (keys, width), 0),
        ("attn_output", "self_attn.o_proj", (width, queries), 0),
        ("ffn_norm", "post_attention_layernorm", (width,), 0),
        ("ffn_gate", "mlp.gate_proj", (wide, width), 0),
        ("ffn_up", "mlp.up_proj", (wide, width), 0),
        ("ffn_down", "mlp.down_proj", (width, wide), 0),
    ]
    for layer in range(shape.layers):
        for short, long, size, heads in per_layer:
            names = f"blk.{layer}.{short}.weight", f"model.layers.{layer}.{long}.weight"
            plan.append(_Tensor(*names, size, heads))
    return plan


def _check(source: GgufSource, plan: list[_Tensor]) -> None:
    planned = {tensor.gguf_name for tensor in plan}
    if foreign := sorted(source.tensors.keys() - planned):
        raise UnsupportedModel(f"{source.path.name} has {foreign[0]}, which a plain llama has not")
    for tensor in plan:
        if tensor.gguf_name not in source.tensors:
            raise CorruptModel(f"{source.path.name} lacks {tensor.gguf_name}")
        found = source.shape(tensor.gguf_name)
        if found != tensor.shape:
            raise CorruptModel(
                f"{tensor.gguf_name} has shape {found}, its model needs {tensor.shape}"
            )


def _header(plan: list[_Tensor], dtype: str) -> tuple[bytes, int]:
    """The safetensors header and the bytes of data that follow it.

    Source: safetensors format: u64 length, JSON padded with spaces, then the tensors' bytes.
    """
    code, value_bytes = DTYPES[dtype]
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for tensor in plan:
        end = offset + int(np.prod(tensor.shape)) * value_bytes
        entries[tensor.mlx_name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(entries).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded, offset
