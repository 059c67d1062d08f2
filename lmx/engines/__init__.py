"""Engines: token ids in, token ids out. Imported only inside a worker process.

`load_engine` imports the one engine that was asked for, so that a worker pays for no other.
"""

from lmx.engines.base import Engine, LoadedEngine
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load


def load_engine(load: Load) -> LoadedEngine:
    """Bring a model up on the calling thread, which owns the engine from here on.

    Raises:
        LoadError: The model cannot be brought up.
    """
    if load.engine == "fake":
        from lmx.engines import fake

        return fake.load(load)
    if load.engine == "mlx":
        # OpenBLAS must be in the process before MLX is.
        from lmx.engines.mlx import blas

        found = blas.prepare()
        from lmx.engines.mlx import loading

        return loading.load_engine(load, found)
    raise UnsupportedModel(f"there is no engine called {load.engine!r}")


__all__ = ["Engine", "LoadedEngine", "load_engine"]
