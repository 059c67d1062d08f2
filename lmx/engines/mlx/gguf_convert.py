"""A GGUF file of the llama architecture to an MLX model directory.

The directory appears whole or not at all: everything is written into a sibling that carries this
process's id, flushed, and renamed. A sibling whose process is gone is litter of a crash and is
removed. Knows nothing about where the file came from beyond the `Origin` it records.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmx.catalog.manifest import (
    CONVERTER_VERSION,
    MANIFEST_NAME,
    PARTIAL,
    Manifest,
    Origin,
    file_sha256,
    file_sizes,
    read_manifest,
    write_manifest,
)
from lmx.engines.mlx.gguf_source import GgufSource
from lmx.engines.mlx.gguf_tokenizer import end_token_ids, write_tokenizer
from lmx.engines.mlx.gguf_weights import DTYPES, LlamaShape, is_tied, read_shape, write_weights
from lmx.errors import ImportFailed, UnsupportedModel


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
    _check_replaceable(target)
    on_progress(0, 0)  # reading a large vocabulary takes seconds
    model = GgufSource(source)
    _check_plain_llama(model)
    origin = origin or Origin(kind="gguf", name=source.name, sha256=file_sha256(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_litter(target)
    partial = target.with_name(f"{target.name}{PARTIAL}{os.getpid()}")
    partial.mkdir()
    try:
        shape = read_shape(model)
        write_tokenizer(model, partial)
        _write_config(model, shape, partial, dtype=dtype)
        weights = partial / "model.safetensors"
        write_weights(model, weights, shape=shape, dtype=dtype, on_progress=on_progress)
        sizes = file_sizes(partial)
        manifest = Manifest(origin=origin, dtype=dtype, converter=CONVERTER_VERSION, files=sizes)
        write_manifest(partial, manifest)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_litter(target: Path) -> None:
    """Remove unfinished siblings of `target` whose process is gone."""
    for path in target.parent.glob(f"{target.name}{PARTIAL}*"):
        owner = path.name.rpartition(PARTIAL)[2].removesuffix(".old")
        if owner.isdigit() and not _is_other_process(int(owner)):
            shutil.rmtree(path)


def _is_other_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check_replaceable(target: Path) -> None:
    """Refuse to touch a directory that an import did not make."""
    if target.exists() and read_manifest(target) is None:
        raise ImportFailed(
            f"{target} exists and has no {MANIFEST_NAME}, so it is not LMX's to replace; "
            "move it away and try again"
        )


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


def _publish(partial: Path, target: Path) -> None:
    """Make the finished directory durable, then put it in place."""
    for path in [*partial.iterdir(), partial]:
        _flush(path)
    old = partial.with_name(f"{partial.name}.old")
    if target.exists():
        target.rename(old)
    partial.replace(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file's or directory's contents are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
