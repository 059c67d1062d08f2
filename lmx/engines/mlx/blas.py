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
    or a client holds all of them up. Measured on two cores with SmolLM2-135M in float32, in
    milliseconds per decode step with one thread and with two: while nothing else ran, batch 1 76
    and 61, batch 8 94 and 103, batch 32 203 and 156; beside busy processes, batch 1 95 and 150.
    More than 16 threads
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
