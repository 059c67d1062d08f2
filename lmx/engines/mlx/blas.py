"""Makes MLX's CPU matrix products use the system's OpenBLAS. Runs before anything imports MLX.

The mlx-cpu wheel links the reference BLAS and resolves `cblas_sgemm` in the global symbol scope,
so an OpenBLAS opened there first takes its place: 512x576x1536 in float32 goes from 5 to 92
GFLOP/s on one thread and 169 on two, the same as with LD_PRELOAD. It knows nothing about models.
"""

import ctypes
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

# The soname of Debian, Ubuntu and Fedora, then the folder Debian keeps it in when another
# provider of libblas is the system's default.
LIBRARY = "libopenblas.so.0"
FOLDERS = ("/usr/lib/{machine}-linux-gnu/openblas-pthread", "/usr/lib64")
MISSING = (
    "OpenBLAS is not installed: MLX on this CPU is about 11 times slower without it. "
    "On Debian and Ubuntu it comes with the package libopenblas0-pthread."
)


class Blas(NamedTuple):
    """What was found.

    Attributes:
        is_fast: float32 products run at the machine's speed.
        notes: Sentences for the daemon's log.
    """

    is_fast: bool
    notes: list[str]


def prepare() -> Blas:
    """Open OpenBLAS globally where MLX computes on the CPU of a Linux machine.

    Environment variables that the user set are left alone.
    """
    if sys.platform != "linux" or _has_cuda():
        return Blas(is_fast=True, notes=[])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(choose_threads(_usable_cores())))
    for candidate in _candidates():
        if _open(candidate):
            return Blas(is_fast=True, notes=[])
    return Blas(is_fast=False, notes=[MISSING])


def choose_threads(cores: int) -> int:
    """OpenBLAS threads for a machine with so many usable cores: all but one, at most 16.

    OpenBLAS threads wait for each other by spinning, so one that shares its core with the daemon
    or a client holds all of them up. Measured on two cores, SmolLM2-135M, milliseconds per decode
    step at batch 1, with one thread and with two: 85 and 62 while nothing else ran, 95 and 150
    beside another busy process; at batch 32, 240 and 170, and 250 and 330. More than 16 threads
    only add waiting at the sizes that decoding has.
    """
    return max(1, min(cores - 1, 16))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _has_cuda() -> bool:
    for name in ("mlx-cuda-13", "mlx-cuda-12", "mlx-cuda"):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return True
    return False


def _candidates() -> list[str]:
    folders = [Path(folder.format(machine=platform.machine())) for folder in FOLDERS]
    return [LIBRARY, *(str(path) for folder in folders if (path := folder / LIBRARY).exists())]


def _open(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
