"""Where an MLX model keeps prompts beyond its life. Knows its files and its caches' types."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.device import device_name
from lmx.engines.mlx.keeper import MlxStore, MlxTier
from lmx.engines.mlx.leaves import leaves_of
from lmx.engines.mlx.packing import MlxPacker
from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.records import DiskSettings, Namespace
from lmx.engines.prefix.fingerprint import fingerprint_files
from lmx.protocol.messages import Load

# Of the arrays that are kept, beside what the libraries' versions say.
LAYOUT = 1
# What waits to be written is looked at, not copied: it is memory beyond what the store has only if
# it was evicted since. 2048 tokens, a pass on a GPU, are 256 MiB of an 8B model.
QUEUE_BYTES = 2 * 10**9


def open_disk(model: Any, store: MlxStore, load: Load) -> MlxTier | None:
    """The tier below a model's store, if it is to have one.

    Raises:
        OSError: The model's files cannot be read.
    """
    if load.prefix_disk is None or not store.is_on:
        return None
    directory = Path(load.source)
    files = [*directory.glob("*.safetensors"), *directory.glob("*.json")]
    libraries = [f"{name} {version(name)}" for name in ("mlx", "mlx-lm")]
    namespace = Namespace(
        model=fingerprint_files(files),
        dtype=f"{kept_types(model)} {load.kv_bits or 'full'} on {device_name()}",
        library=" ".join([*libraries, f"layout {LAYOUT}"]),
    )
    cap_bytes = load.prefix_disk.cap_bytes
    settings = DiskSettings(cap_bytes=cap_bytes, queue_bytes=min(cap_bytes, QUEUE_BYTES))
    cache = DiskCache.open(Path(load.prefix_disk.path), namespace, settings=settings)
    return MlxTier(store, cache, MlxPacker(leaves_of(CacheRows.single(model).layers)))


def kept_types(model: Any) -> str:
    """The types of what its caches hold, from a pass over one token."""
    caches = CacheRows.single(model)
    mx.eval(model(mx.array([[0]]), cache=caches.layers), caches.states())
    found = cast("list[tuple[str, Any]]", tree_flatten(caches.states()))
    return ",".join(sorted({str(a.dtype) for _, a in found if isinstance(a, mx.array)}))
