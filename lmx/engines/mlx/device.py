"""Process-wide settings of MLX's device: where it computes, what it pools, what it pins.

Knows bytes, not models. MLX's own memory limit is only a guideline, so none is set here:
admission keeps a worker within its budget.
"""

import mlx.core as mx

# Freed buffers MLX keeps for the next step. On Metal its default is the whole memory limit, so
# what one long prefill used would stay with the process for good. The buffers of a prefill pass
# over an 8B model are some 2048 x 14336 halves, 56 MiB each; 2 GiB keep a few dozen of them. On a
# CPU steady decoding measured the same with 32 MiB (the default) and 2 GiB, so this bounds what
# joins leave.
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
