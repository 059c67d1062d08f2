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
THREADS_VARIABLE = "OPENBLAS_NUM_THREADS"
MOST_THREADS = 16


class Blas(NamedTuple):
    """What was found.

    Attributes:
        is_fast: float32 products run at the machine's speed.
        notes: Sentences for the daemon's log.
        threads: Of one matrix product.
        library: OpenBLAS, where LMX says how many threads it uses.
    """

    is_fast: bool
    notes: list[str]
    threads: int = 1
    library: ctypes.CDLL | None = None

    @property
    def free_cores(self) -> int:
        """How many products may run side by side, each on its own thread or on the user's number.

        Not more than 16: beyond that, more threads only share the same memory's bandwidth.
        """
        threads = 1 if self.library is not None else self.threads
        return max(1, min(_usable_cores() // threads, MOST_THREADS))

    def use_threads(self, count: int) -> None:
        """From now on a product uses so many threads, unless the user has fixed their number."""
        if self.library is not None:
            self.library.openblas_set_num_threads(count)


def prepare() -> Blas:
    """Open OpenBLAS globally where MLX computes on the CPU of a Linux machine.

    Environment variables that the user set are left alone.
    """
    if sys.platform != "linux" or _has_cuda():
        return Blas(is_fast=True, notes=[])
    chosen = choose_threads(_usable_cores())
    said = os.environ.setdefault(THREADS_VARIABLE, str(chosen))
    threads = max(1, int(said)) if said.isdigit() else chosen
    for candidate in _candidates():
        library = _open(candidate)
        if library is not None:
            is_ours = said == str(chosen)
            return Blas(
                is_fast=True, notes=[], threads=threads, library=library if is_ours else None
            )
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
    return max(1, min(cores - 1, MOST_THREADS))


def _usable_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


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


def _open(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None
