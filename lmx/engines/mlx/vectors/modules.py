"""What a directory of sentence-transformers' kind says of its vectors.

Reads `modules.json` and the folders it names; what a step does is in `pooling`. Directories without
these files get what such models were mostly trained with.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.catalog.mlx_config import count
from lmx.catalog.mlx_files import MODULES_FILE
from lmx.engines.mlx.files import check_safetensors, read_json
from lmx.engines.mlx.vectors.activations import find_activation
from lmx.engines.mlx.vectors.pooling import POOLINGS, Dense, Pooling, Step, normalise
from lmx.engines.mlx.vectors.weights import Weights, read_tensors
from lmx.errors import CorruptModel, UnsupportedModel

# How sentence-transformers has named the file over time, by the kind of encoder.
LIMIT_FILES = "sentence_*_config.json"
# Flags of the older files, in the order in which several are put together.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class VectorPlan(NamedTuple):
    """How vectors come from hidden states.

    Attributes:
        steps: In order; the first one pools.
        width: Numbers of a vector.
        weight_bytes: Of the steps' own weights.
    """

    steps: Sequence[Step]
    width: int
    weight_bytes: int = 0


class TextLimits(NamedTuple):
    """What is done to texts before they are tokens.

    Attributes:
        max_tokens: The longest row, or `None` if the files do not say.
        is_lowered: Texts are lower-cased first.
    """

    max_tokens: int | None = None
    is_lowered: bool = False


def read_plan(directory: Path, width: int, *, default_pooling: str) -> VectorPlan:
    """The steps after the encoder.

    Args:
        directory: The model's.
        width: Of the hidden states.
        default_pooling: For directories without `modules.json`; they are normalised.

    Raises:
        CorruptModel: A file is damaged or missing.
        UnsupportedModel: There is a step of an unknown kind.
    """
    if not (directory / MODULES_FILE).is_file():
        return VectorPlan([Pooling([default_pooling]), normalise], width)
    plan = VectorPlan([], width)
    for kind, folder in _modules(directory):
        plan = _add(plan, kind, directory / folder)
    if not plan.steps or not isinstance(plan.steps[0], Pooling):
        raise UnsupportedModel(f"{MODULES_FILE} does not begin with an encoder and a pooling")
    return plan


def read_limits(directory: Path) -> TextLimits:
    """The limits of sentence-transformers' own file, if there is one.

    Raises:
        CorruptModel: It cannot be read.
    """
    found = sorted(directory.glob(LIMIT_FILES))
    limits = read_json(found[0]) if found else {}
    return TextLimits(count(limits, "max_seq_length") or None, bool(limits.get("do_lower_case")))


def _modules(directory: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module after the encoder, which has to be in the directory itself."""
    try:
        entries = json.loads((directory / MODULES_FILE).read_text(encoding="utf-8"))
        found = [(str(e["type"]).rsplit(".", 1)[-1], str(e["path"])) for e in entries]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CorruptModel(f"{MODULES_FILE} cannot be read: {error}") from error
    if not found or found[0][0] != "Transformer":
        raise UnsupportedModel(f"{MODULES_FILE} does not begin with an encoder")
    if found[0][1] not in {"", "."}:
        raise UnsupportedModel(f"{MODULES_FILE} has its encoder in {found[0][1]}")
    for _, folder in found[1:]:
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise CorruptModel(f"{MODULES_FILE} names a folder outside: {folder}")
    return found[1:]


def _add(plan: VectorPlan, kind: str, folder: Path) -> VectorPlan:
    steps = list(plan.steps)
    if kind == "Pooling":
        kinds = _pooling_kinds(read_json(folder / "config.json"))
        return VectorPlan([*steps, Pooling(kinds)], plan.width * len(kinds))
    if kind == "Normalize":
        return plan._replace(steps=[*steps, normalise])
    if kind == "Dense":
        dense, weight_bytes = _read_dense(folder, plan.width)
        width = dense.layer.weight.shape[0]
        return VectorPlan([*steps, dense], width, plan.weight_bytes + weight_bytes)
    if kind == "Dropout":  # of no effect outside training
        return plan
    raise UnsupportedModel(f"{MODULES_FILE} has a module {kind}, which is not known")


def _pooling_kinds(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    kinds = [named] if isinstance(named, str) else named
    if kinds is None:
        kinds = [kind for flag, kind in FLAGS.items() if config.get(flag)]
    if not isinstance(kinds, list) or not kinds:
        raise CorruptModel("the pooling module names no pooling")
    for kind in kinds:
        if not isinstance(kind, str) or kind not in POOLINGS:
            raise UnsupportedModel(f"the pooling module names {kind!r}, which is not known")
    return kinds


def _read_dense(folder: Path, width: int) -> tuple[Dense, int]:
    config = read_json(folder / "config.json")
    name = config.get("activation_function", "Tanh")
    short = name.rsplit(".", 1)[-1] if isinstance(name, str) else name
    activate = find_activation(short, field=f"activation_function of {folder.name}")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UnsupportedModel(f"{folder.name} has no model.safetensors")
    check_safetensors(path)
    weights = Weights(read_tensors(path))
    outputs = count(config, "out_features") or weights.shape("linear.weight")[0]
    layer = weights.linear("linear", outputs, width, has_bias=weights.has("linear.bias"))
    return Dense(layer, activate), weights.taken_bytes
