"""Process-wide settings of MLX's device: where it computes, what it pools, what it pins.

Knows bytes, not models. MLX's own memory limit is only a guideline, so none is set here:
admission keeps a worker within its budget.
"""

import mlx.core as mx

from lmx.catalog.memory_plan import MLX_POOL_BYTES, Device


def device_name() -> Device:
    """``gpu`` or ``cpu``."""
    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def limit_pool() -> int:
    """Bound the buffer pool; returns the bound in bytes."""
    pool_bytes = MLX_POOL_BYTES[device_name()]
    mx.set_cache_limit(pool_bytes)
    return pool_bytes


def wire(wanted_bytes: int) -> None:
    """Pin up to so many bytes on Metal, so that the system cannot page out a model in use.

    Bounded by the recommended working set. Each worker wires only its own share: several that
    each wire the maximum are a known cause of kernel panics.
    """
    if mx.metal.is_available():
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(recommended, wanted_bytes))
