"""The MLX engine: `load` turns a model directory into an engine on the calling thread.

Importing this package imports neither MLX nor mlx-lm: OpenBLAS must be in the process first, and
a worker for another engine should not pay for them.
"""

import os

from lmx.engines.base import LoadedEngine
from lmx.engines.mlx import blas
from lmx.protocol.messages import Load


def load(load: Load) -> LoadedEngine:
    """Bring the model directory ``load.source`` up; see `loading.load_engine`.

    Raises:
        LoadError: The model cannot be brought up.
    """
    # mlx-lm imports the hub's client, which must not look anything up.
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = blas.prepare()
    from lmx.engines.mlx import loading  # noqa: PLC0415  # see above

    return loading.load_engine(load, found)
