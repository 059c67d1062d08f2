"""A GGUF file of the llama architecture to an MLX model directory.

The directory appears whole or not at all. Knows nothing about where the file came from beyond the
`Origin` it records.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmx.catalog.manifest import (
    Origin,
    file_sha256,
    write_manifest,
)
from lmx.engines.mlx.gguf_source import GgufSource
from lmx.engines.mlx.gguf_tokenizer import end_token_ids, write_tokenizer
from lmx.engines.mlx.gguf_weights import DTYPES, LlamaShape, is_tied, read_shape, write_weights
from lmx.engines.model_directory import new_directory
from lmx.errors import UnsupportedModel


def convert_gguf(
    source: Path,
    target: Path,
    *,
    dtype: str,
    on_progress: Callable[[int, int], None],
    origin: Origin | None = None,
) -> None:
    """Write the MLX model directory `target`; an earlier import there is replaced.

    Args:
        source: A GGUF file.
        target: Where the directory shall stand.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        on_progress: Called with bytes of weights written so far and in all (0 while unknown).
        origin: What the manifest records; by default the file and its digest.

    Raises:
        CorruptModel: The file is damaged, incomplete or no GGUF file.
        UnsupportedModel: Architecture, tokenizer, quantization or `dtype` unknown here.
        ImportFailed: Something that is no import of ours stands at `target`.
    """
    if dtype not in DTYPES:
        raise UnsupportedModel(f"dtype {dtype!r} is unknown, only {', '.join(DTYPES)}")
    with new_directory(target) as directory:
        on_progress(0, 0)  # reading a large vocabulary takes seconds
        model = GgufSource(source)
        _check_plain_llama(model)
        origin = origin or Origin(kind="gguf", name=source.name, sha256=file_sha256(source))
        shape = read_shape(model)
        write_tokenizer(model, directory)
        _write_config(model, shape, directory, dtype=dtype)
        weights = directory / "model.safetensors"
        write_weights(model, weights, shape=shape, dtype=dtype, on_progress=on_progress)
        write_manifest(directory, origin, dtype)


def _check_plain_llama(model: GgufSource) -> None:
    architecture = model.text("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"architecture {architecture!r} is not supported, only 'llama'")
    scaling = model.text("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedModel(f"rope scaling {scaling!r} is not supported")
    head_size = read_shape(model).head_size
    if model.integer("llama.rope.dimension_count", head_size) != head_size:
        raise UnsupportedModel("rotary embedding of part of a head is not supported")


def _write_config(model: GgufSource, shape: LlamaShape, directory: Path, *, dtype: str) -> None:
    ends = end_token_ids(model)
    begin = model.integer("tokenizer.ggml.bos_token_id", ends[0])
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.feed_forward,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "rms_norm_eps": model.number("llama.attention.layer_norm_rms_epsilon"),
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": model.integer("llama.context_length"),
        "rope_theta": model.number("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": is_tied(model),
        "bos_token_id": begin,
        "eos_token_id": ends,
        "torch_dtype": dtype,
    }
    generation = {"bos_token_id": begin, "eos_token_id": ends}
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        (directory / name).write_text(json.dumps(values, indent=1), encoding="utf-8")
