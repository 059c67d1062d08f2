"""Engines: token ids in, token ids out. Imported only inside a worker process.

`load_engine` imports the one engine that was asked for, so that a worker pays for no other.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from lmx.engines.base import Engine, LoadedEngine
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load

NO_LLAMA_CPP = (
    "GGUF files need llama-cpp-python, which is not installed. Run scripts/install-gguf, or "
    "pip install 'opta-lmx[gguf]'; it compiles for some minutes. Files of the Llama architecture "
    "can also be converted for MLX: --backend mlx"
)


def load_engine(load: Load) -> LoadedEngine:
    """Bring a model up on the calling thread, which owns the engine from here on.

    Raises:
        LoadError: The model cannot be brought up.
    """
    return import_engine(load.engine)(load)


def import_engine(name: str) -> Callable[[Load], LoadedEngine]:
    """Import an engine, which takes up to seconds; returns what loads its models.

    Raises:
        UnsupportedModel: There is no such engine, or its library is not installed.
    """
    if name == "fake":
        from lmx.engines import fake

        return fake.load
    if name == "mlx":
        # OpenBLAS must be in the process before MLX is.
        from lmx.engines.mlx import blas

        found = blas.prepare()
        from lmx.engines.mlx import loading

        return partial(loading.load_engine, blas=found)
    if name == "llama":
        if find_spec("llama_cpp") is None:
            raise UnsupportedModel(NO_LLAMA_CPP)
        from lmx.engines.llama import loading as llama_loading

        return llama_loading.load_engine
    raise UnsupportedModel(f"there is no engine called {name!r}")


__all__ = ["Engine", "LoadedEngine", "import_engine", "load_engine"]
