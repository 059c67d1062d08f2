"""Engines: token ids in, token ids out. Imported only inside a worker process.

`load_engine` imports the one engine that was asked for, so that a worker pays for no other.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

from lmx.engines.base import Engine, LoadedEngine
from lmx.engines.vectors import LoadedVectors
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose

NO_LLAMA_CPP = (
    "GGUF files need llama-cpp-python, which is not installed. Run scripts/install-gguf, or "
    "pip install 'opta-lmx[gguf]'; it compiles for some minutes. Files of the Llama architecture "
    "can also be converted for MLX: --backend mlx"
)
NO_KV_CACHE = "models.kv_bits is set for this model, which keeps no KV cache between requests"

Loaded = LoadedEngine | LoadedVectors


def load_engine(load: Load) -> Loaded:
    """Bring a model up on the calling thread, which owns the engine from here on.

    Raises:
        LoadError: The model cannot be brought up.
    """
    if load.kv_bits is not None and load.purpose != "generation":
        raise UnsupportedModel(NO_KV_CACHE)
    return import_engine(load.engine, load.purpose)(load)


def import_engine(name: str, purpose: Purpose = "generation") -> Callable[[Load], Loaded]:
    """Import an engine, which takes up to seconds; returns what loads its models.

    Args:
        name: The engine.
        purpose: What its models are to answer.

    Raises:
        UnsupportedModel: There is no such engine, or its library is not installed.
    """
    if name == "llama" and find_spec("llama_cpp") is None:
        raise UnsupportedModel(NO_LLAMA_CPP)
    found = GENERATORS.get(name) if purpose == "generation" else VECTORS.get(name)
    if found is None:
        raise UnsupportedModel(f"there is no engine called {name!r}")
    return found()


def _import_fake() -> Callable[[Load], Loaded]:
    from lmx.engines import fake

    return fake.load


def _import_fake_vectors() -> Callable[[Load], Loaded]:
    from lmx.engines import fake_vectors

    return fake_vectors.load_vectors


def _import_mlx() -> Callable[[Load], Loaded]:
    # OpenBLAS must be in the process before MLX is.
    from lmx.engines.mlx import blas

    found = blas.prepare()
    from lmx.engines.mlx import loading

    return partial(loading.load_engine, blas=found)


def _import_mlx_vectors() -> Callable[[Load], Loaded]:
    from lmx.engines.mlx import blas

    found = blas.prepare()
    from lmx.engines.mlx.vectors import loading

    return partial(loading.load_vectors, blas=found)


def _import_llama() -> Callable[[Load], Loaded]:
    from lmx.engines.llama import loading

    return loading.load_engine


def _import_llama_vectors() -> Callable[[Load], Loaded]:
    from lmx.engines.llama import vectors

    return vectors.load_vectors


Importer = Callable[[], Callable[[Load], Loaded]]
GENERATORS: Mapping[str, Importer] = {
    "fake": _import_fake,
    "mlx": _import_mlx,
    "llama": _import_llama,
}
VECTORS: Mapping[str, Importer] = {
    "fake": _import_fake_vectors,
    "mlx": _import_mlx_vectors,
    "llama": _import_llama_vectors,
}

__all__ = ["Engine", "LoadedEngine", "LoadedVectors", "import_engine", "load_engine"]
