"""The quantisation process: an MLX model is written again with smaller weights.

On the CPU, at low priority: the device belongs to models that answer, and on macOS two processes on
the GPU can bring the system down. Weights are read, quantised and written one shard at a time, so
that a model may be larger than the memory. Through mlx-lm, whose files its own tools read, too.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_model, make_shards, quantize_model, save_config

from lmx.catalog.manifest import flush_tree
from lmx.catalog.mlx_files import CONFIG_FILE, INDEX_FILE, read_config
from lmx.errors import CorruptModel, OutputExists, UnsupportedModel
from lmx.jobs.choice import COMPANIONS
from lmx.jobs.report import Reporter, run_job
from lmx.protocol.jobs import Done, JobProgress, QuantizeOrder

SHARD_GB = 1
LOW_PRIORITY = 10


def quantize(order: QuantizeOrder, reporter: Reporter) -> Done:
    """Write the smaller model, and put it in its place.

    Raises:
        CorruptModel: The model cannot be read.
        UnsupportedModel: mlx-lm does not know it, or nothing in it can be quantised.
        OutputExists: Something has come to stand in its place.
        OSError: The disk refuses.
    """
    source, target, partial = Path(order.source), Path(order.target), Path(order.partial)
    reporter.send(JobProgress(stage="quantize", done_bytes=0, total_bytes=0))
    loaded, plain_config = _load(source)
    model, config = quantize_model(loaded, plain_config, order.group_size, order.bits)
    if not any(name.endswith(".scales") for name in dict(tree_flatten(model.parameters()))):
        raise UnsupportedModel(
            f"no layer of {source.name} has a width that groups of {order.group_size} divide"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_weights(model, partial, reporter)
    save_config(config, partial / CONFIG_FILE)
    for path in source.iterdir():
        is_companion = COMPANIONS.fullmatch(path.name) and path.name not in {
            CONFIG_FILE,
            INDEX_FILE,
        }
        if is_companion and path.is_file():
            shutil.copyfile(path, partial / path.name)
    flush_tree(partial)
    size_bytes = sum(path.stat().st_size for path in partial.iterdir())
    if target.exists():
        raise OutputExists(f"{target} is there already", param="output_path")
    partial.rename(target)
    return Done(size_bytes)


def _load(source: Path) -> tuple[Any, dict[str, Any]]:
    """The model, none of whose weights are read yet."""
    if read_config(source / CONFIG_FILE).get("model_file"):
        raise UnsupportedModel(f"{source.name} needs Python code of its own; none is run")
    try:
        loaded = load_model(source, lazy=True)
    except (ValueError, AttributeError) as error:
        raise UnsupportedModel(f"MLX cannot run {source.name}: {error}") from error
    except (OSError, RuntimeError, LookupError, TypeError) as error:
        raise CorruptModel(f"{source.name} cannot be read: {error}") from error
    return loaded[0], loaded[1]


def _write_weights(model: Any, directory: Path, reporter: Reporter) -> None:
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    total_bytes = sum(value.nbytes for value in weights.values())
    shards = make_shards(weights, SHARD_GB)
    # What is written must be held by its shard alone, so that its memory goes with that.
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    weights.clear()
    count, done_bytes = len(shards), 0
    places: dict[str, str] = {}
    for number in range(1, count + 1):
        shard = shards.pop(0)
        name = f"model-{number:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
        for value in shard.values():
            mx.eval(value)
            done_bytes += value.nbytes
            reporter.progress(
                JobProgress(
                    stage="quantize",
                    done_bytes=done_bytes,
                    total_bytes=total_bytes,
                    files_done=number - 1,
                )
            )
        mx.save_safetensors(str(directory / name), shard, metadata={"format": "mlx"})
        places.update(dict.fromkeys(shard, name))
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(places.items()))}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1))


def work(order: QuantizeOrder, reporter: Reporter) -> Done:
    """Do what is ordered, without being in anybody's way."""
    os.nice(LOW_PRIORITY)
    mx.set_default_device(mx.cpu)
    return quantize(order, reporter)


if __name__ == "__main__":
    sys.exit(run_job(QuantizeOrder, work))
