"""Process-wide settings of MLX's device: where it computes, what it pools, what it pins.

Knows bytes, not models. MLX's own memory limit is only a guideline, so none is set here:
admission keeps a worker within its budget.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from lmx.catalog.memory_plan import MLX_POOL_BYTES, Device
from lmx.errors import OutOfMemory

# How the device's out-of-memory texts begin in mlx 0.32: "[METAL] Command buffer execution
# failed", "[metal::malloc] ...", "[malloc] Unable to allocate", "[malloc_or_wait] ...", and
# "cudaMallocAsync" or "out of memory" on CUDA.
OUT_OF_MEMORY_MARKS = ("[metal", "malloc", "out of memory")


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


@contextmanager
def telling_out_of_memory() -> Iterator[None]:
    """Turn the device's out-of-memory errors into ours.

    Raises:
        OutOfMemory: The device has no room.
    """
    try:
        yield
    except RuntimeError as error:
        if any(mark in str(error).lower() for mark in OUT_OF_MEMORY_MARKS):
            raise OutOfMemory(f"the device ran out of memory: {error}") from error
        raise
