"""The tensors of a model directory, handed out by name and checked for shape.

Knows safetensors and the prefixes that transformers puts before the names of an encoder inside a
larger model; what the tensors mean is for the nets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.catalog.mlx_config import quantisation_name
from lmx.engines.mlx.device import device_name
from lmx.engines.mlx.files import WEIGHTS
from lmx.errors import CorruptModel, UnsupportedModel

PREFIXES = ("bert.", "roberta.", "model.")
# Names of the first BERT checkpoints.
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
FLOATS = frozenset({mx.float32, mx.float16, mx.bfloat16})


class Linear(NamedTuple):
    """A layer: weight (O, I), bias (O,) or none."""

    weight: mx.array
    bias: mx.array | None

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., I) -> (..., O)."""
        if self.bias is None:
            return x @ self.weight.T
        return mx.addmm(self.bias, x, self.weight.T)


class LayerNorm(NamedTuple):
    """Normalises the last axis."""

    weight: mx.array
    bias: mx.array | None
    epsilon: float

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., D) -> (..., D)."""
        return mx.fast.layer_norm(x, self.weight, self.bias, self.epsilon)


class Weights:
    """Tensors by name, without the prefix of the encoder.

    Args:
        tensors: As the files have them.
    """

    def __init__(self, tensors: dict[str, mx.array]) -> None:
        self._tensors = tensors
        self._taken_bytes: dict[str, int] = {}

    @property
    def taken_bytes(self) -> int:
        """Of what has been taken so far, and so makes the model."""
        return sum(self._taken_bytes.values())

    def has(self, name: str) -> bool:
        """There is a tensor of that name."""
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            CorruptModel: There is none of that name.
        """
        return tuple(self._find(name).shape)

    def take(self, name: str, *shape: int) -> mx.array:
        """A tensor, in float32 on a CPU.

        Raises:
            CorruptModel: It is missing or has another shape.
            UnsupportedModel: It is quantised.
        """
        found = self._find(name)
        if found.dtype not in FLOATS:
            raise UnsupportedModel(f"{name} is quantised ({found.dtype}), which encoders cannot be")
        if tuple(found.shape) != shape:
            raise CorruptModel(f"{name} has the shape {tuple(found.shape)} instead of {shape}")
        if device_name() == "cpu":
            found = found.astype(mx.float32)
        self._taken_bytes[name] = found.nbytes
        return found

    def linear(self, name: str, outputs: int, inputs: int, *, has_bias: bool = True) -> Linear:
        """A layer of that name; see `take`."""
        bias = self.take(f"{name}.bias", outputs) if has_bias else None
        return Linear(self.take(f"{name}.weight", outputs, inputs), bias)

    def joined(self, names: Sequence[str], outputs: int, inputs: int) -> Linear:
        """Layers side by side, as one whose outputs follow each other."""
        weights = [self.take(f"{name}.weight", outputs, inputs) for name in names]
        biases = [self.take(f"{name}.bias", outputs) for name in names]
        joined = Linear(mx.concatenate(weights), mx.concatenate(biases))
        mx.eval(joined.weight, joined.bias)
        return joined

    def norm(self, name: str, width: int, epsilon: float, *, has_bias: bool = True) -> LayerNorm:
        """A normalisation of that name; see `take`."""
        bias = self.take(f"{name}.bias", width) if has_bias else None
        return LayerNorm(self.take(f"{name}.weight", width), bias, epsilon)

    def _find(self, name: str) -> mx.array:
        found = self._tensors.get(name)
        if found is None:
            raise CorruptModel(f"the weights lack {name}")
        return found


def open_weights(directory: Path, config: dict[str, Any]) -> Weights:
    """The weights of an encoder's directory, mapped and not yet read.

    Raises:
        CorruptModel: A file cannot be read.
        UnsupportedModel: The weights are quantised.
    """
    if config.get("quantization") or config.get("quantization_config"):
        name = quantisation_name(config)
        raise UnsupportedModel(f"config.json says quantised ({name}), which encoders cannot be")
    tensors: dict[str, mx.array] = {}
    for path in sorted(directory.glob(WEIGHTS)):
        for name, tensor in read_tensors(path).items():
            tensors[_own_name(name)] = tensor
    return Weights(tensors)


def read_tensors(path: Path) -> dict[str, mx.array]:
    """One safetensors file.

    Raises:
        CorruptModel: It cannot be read.
    """
    try:
        found = mx.load(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise CorruptModel(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CorruptModel(f"{path.name} holds no named tensors")
    return found


def _own_name(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
