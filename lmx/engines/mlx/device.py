"""Process-wide settings of MLX's device: where it computes, what it pools, what it pins.

Knows bytes, not models. MLX's own memory limit is only a guideline, so none is set here:
admission keeps a worker within its budget.
"""

import mlx.core as mx

# Freed buffers MLX keeps for the next step. On Metal its default is the whole memory limit, so a
# long prefill would stay resident for good; one prefill pass of an 8B model needs less than 2 GiB.
# On a CPU it is 32 MiB, less than one step's logits and masks at batch 32.
GPU_POOL_BYTES = 2 << 30
CPU_POOL_BYTES = 256 << 20


def device_name() -> str:
    """``gpu`` or ``cpu``."""
    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def limit_pool() -> int:
    """Bound the buffer pool; returns the bound in bytes."""
    pool_bytes = GPU_POOL_BYTES if device_name() == "gpu" else CPU_POOL_BYTES
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
