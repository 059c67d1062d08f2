"""Attention and gates for CPUs where MLX takes exponentials one by one. Knows layers, no models.

The x86-64 wheel of MLX 0.32.4 calls the C library for each: 15 ns, four fifths of attention over a
long prompt. numpy's vectors take 0.6 ns, and its maximum and sum a fifth of MLX's. It works in
place, on the memory of MLX's product, so each use waits for the device. Gates are short, and
`curves` keeps them lazy.

Shapes: B rows, H heads, K heads of keys, G = H / K, T tokens, N tokens that are looked at, E values
per head.
"""

import inspect
import platform
from types import FunctionType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import activations, base
from numpy.typing import NDArray

from lmx.engines.mlx.curves import silu
from lmx.engines.mlx.device import device_name

# As `platform.machine` has it.
SLOW_MACHINES = {"x86_64", "AMD64"}
# With fewer products, waiting takes longer than MLX's exponentials.
LEAST_SCORES = 1 << 14
# Gone over four times: half a megabyte, which stays in a core's own cache.
TILE_SCORES = 1 << 17
# What a block has: 32 megabytes, of which two are there at once.
MOST_SCORES = 1 << 23
# Instead of minus infinity, so that a row that sees nothing is no division of nothing by nothing.
UNSEEN = float(np.finfo(np.float32).min)


def avoid_slow_exponentials(model: Any, machine: str = platform.machine()) -> None:
    """Where MLX has no vectors for them, let a model's layers call the functions of this module.

    A layer gets a class whose methods see other globals; mlx-lm's own classes stay as they are.

    Args:
        model: Of mlx-lm, changed in place. What it computes is not lazy any more.
        machine: As `platform.machine` says.
    """
    if device_name() == "gpu" or machine not in SLOW_MACHINES:
        return
    classes: dict[type, type] = {}
    for module in model.modules():
        kind = type(module)
        if kind not in classes:
            classes[kind] = _class_with_ours(kind)
        module.__class__ = classes[kind]


def attend(queries: mx.array, keys: Any, values: Any, *rest: Any, **how: Any) -> mx.array:
    """`mlx_lm.models.base.scaled_dot_product_attention`; the same but for rounding.

    Quantised keys, half types, sinks and what is called in another way are left to that.
    """
    is_usual = not rest and how.keys() == {"cache", "scale", "mask"}
    is_plain = isinstance(keys, mx.array) and queries.dtype == keys.dtype == mx.float32
    if is_usual and is_plain and _pays(queries, keys):
        return softmax_attention(queries, keys, values, scale=how["scale"], mask=how["mask"])
    found: mx.array = base.scaled_dot_product_attention(queries, keys, values, *rest, **how)
    return found


def softmax_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: mx.array | str | None,
) -> mx.array:
    """Attention in float32, a block after the other; the last one's result is on its way.

    Args:
        queries: (B, H, T, E)
        keys: (B, K, N, E)
        values: (B, K, N, V)
        scale: Of the products.
        mask: ``causal``, or what is seen (bool) or added to the products, that fits (B, H, T, N).

    Returns:
        (B, H, T, V)
    """
    batch, heads, tokens, _ = queries.shape
    rows = max(1, MOST_SCORES // (batch * heads * keys.shape[2]))
    queries = queries * scale
    blocks = []
    for start in range(0, tokens, rows):
        stop = min(tokens, start + rows)
        # What a causal block sees ends with it.
        seen = keys.shape[2] - (tokens - stop if isinstance(mask, str) else 0)
        blocks.append(
            _attend_block(
                queries[:, :, start:stop],
                keys[:, :, :seen],
                values[:, :, :seen],
                mask=_part_of(mask, start, stop),
            )
        )
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def gate_silu(gate: mx.array, x: mx.array) -> mx.array:
    """`mlx_lm.models.activations.swiglu`, silu(gate) * x; the same but for rounding."""
    found: mx.array = silu(gate) * x if gate.dtype == mx.float32 else activations.swiglu(gate, x)
    return found


def _attend_block(
    queries: mx.array, keys: mx.array, values: mx.array, *, mask: mx.array | str | None
) -> mx.array:
    batch, heads, tokens, width = queries.shape
    together = queries.reshape(batch, keys.shape[1], -1, width)
    scores = together @ keys.swapaxes(-1, -2)  # (B, K, G * T, N)
    mx.eval(scores, [mask] if isinstance(mask, mx.array) else [])
    weights = _view(scores).reshape(batch, heads, tokens, -1)
    if mask is not None:
        _hide(weights, mask)
    sums = _exponentiate(weights.reshape(-1, weights.shape[-1]))
    mixed = (scores @ values) / mx.array(sums).reshape(*scores.shape[:-1], 1)
    mx.async_eval(mixed)  # or every block's scores would stay until the end of the pass
    return mixed.reshape(batch, heads, tokens, -1)


def _part_of(mask: mx.array | str | None, start: int, stop: int) -> mx.array | str | None:
    """What a mask says of some of the tokens."""
    if not isinstance(mask, mx.array) or mask.ndim == 1 or mask.shape[-2] == 1:
        return mask  # it says the same of all
    return mask[..., start:stop, :]


def _pays(queries: mx.array, keys: mx.array) -> bool:
    batch, heads, tokens, _ = queries.shape
    return batch * heads * tokens * keys.shape[2] >= LEAST_SCORES


def _view(array: mx.array) -> NDArray[np.float32]:
    """The memory of an array that was evaluated and that nobody else has."""
    view: NDArray[np.float32] = np.array(array, copy=False)
    if not view.flags.c_contiguous:
        raise ValueError("what MLX has computed does not lie in one piece")
    return view


def _hide(scores: NDArray[np.float32], mask: mx.array | str) -> None:
    """Apply a mask in place. Shape: scores (B, H, T, N)."""
    if isinstance(mask, str):
        tokens = scores.shape[2]
        later = np.triu(np.ones((tokens, tokens), dtype=np.bool_), 1)
        np.copyto(scores[..., scores.shape[-1] - tokens :], UNSEEN, where=later)
        return
    known = np.array(mask)
    if known.dtype == np.bool_:
        np.copyto(scores, UNSEEN, where=np.logical_not(known))
    else:
        scores += known


def _exponentiate(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exponentials of each row's differences to its largest, in place.

    Shape: rows (R, N).

    Returns:
        (R, 1), the sum of each row.
    """
    sums = np.empty((len(rows), 1), dtype=np.float32)
    step = max(1, TILE_SCORES // rows.shape[-1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        np.exp(np.subtract(part, part.max(axis=-1, keepdims=True), out=part), out=part)
        part.sum(axis=-1, keepdims=True, out=sums[start : start + step])
    return sums


_OURS = {
    "scaled_dot_product_attention": (base.scaled_dot_product_attention, attend),
    "swiglu": (activations.swiglu, gate_silu),
}


def _class_with_ours(kind: type) -> type:
    """A subclass whose methods call our functions, or the class itself if they call none."""
    methods: dict[str, Any] = {}
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        known = method.__globals__
        ours = {
            called: new
            for called, (old, new) in _OURS.items()
            if called in method.__code__.co_names and known.get(called) is old
        }
        if ours:
            methods[name] = _rebound(method, {**known, **ours})
    methods["__module__"] = kind.__module__
    return type(kind.__name__, (kind,), methods) if len(methods) > 1 else kind


def _rebound(method: FunctionType, names: dict[str, Any]) -> FunctionType:
    found = FunctionType(
        method.__code__, names, method.__name__, method.__defaults__, method.__closure__
    )
    found.__kwdefaults__ = method.__kwdefaults__
    return found
