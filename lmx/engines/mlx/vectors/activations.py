"""Activation functions by the names that configurations use.

Knows names and which device computes. Sources: transformers' ``ACT2FN`` and, for dense modules of
sentence-transformers, class names of torch.
"""

from collections.abc import Mapping

import mlx.core as mx

from lmx.engines.mlx import curves
from lmx.engines.mlx.curves import Curve
from lmx.engines.mlx.device import device_name
from lmx.errors import UnsupportedModel


def _relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0.0)


def _gelu(x: mx.array) -> mx.array:
    return x * (1.0 + mx.erf(x * 0.5**0.5)) * 0.5


def _tanh_gelu(x: mx.array) -> mx.array:
    cubed = curves.TANH_GELU_CUBE * x * mx.square(x)
    return x * mx.sigmoid(curves.TANH_GELU * (x + cubed))


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _identity(x: mx.array) -> mx.array:
    return x


COMMON: Mapping[str, Curve] = {
    "relu": _relu,
    "tanh": mx.tanh,
    "sigmoid": mx.sigmoid,
    "identity": _identity,
}
ON_CPU: Mapping[str, Curve] = {
    "gelu": curves.gelu,
    "tanh_gelu": curves.tanh_gelu,
    "silu": curves.silu,
}
ON_GPU: Mapping[str, Curve] = {"gelu": _gelu, "tanh_gelu": _tanh_gelu, "silu": _silu}
ALIASES: Mapping[str, str] = {
    "gelu_new": "tanh_gelu",
    "gelu_pytorch_tanh": "tanh_gelu",
    "gelu_fast": "tanh_gelu",
    "swish": "silu",
    "linear": "identity",
}


def find_activation(name: object, *, field: str) -> Curve:
    """The function of that name, in the form that is fast on this device.

    Args:
        name: As a configuration spells it.
        field: The configuration's field, for the error.

    Raises:
        UnsupportedModel: There is none of that name.
    """
    spelled = name.lower() if isinstance(name, str) else ""
    known = {**COMMON, **(ON_CPU if device_name() == "cpu" else ON_GPU)}
    found = known.get(ALIASES.get(spelled, spelled))
    if found is None:
        raise UnsupportedModel(f"{field} names the activation {name!r}, which is not known")
    return found
