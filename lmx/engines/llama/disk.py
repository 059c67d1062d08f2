"""Opens what a GGUF model keeps of prompts on disk. Knows files and versions, no tokens.

The state of one model is of use to another worker only if the same files, the same library and the
same kind of cache made it; the namespace says all that.
"""

import re
from importlib.metadata import version
from pathlib import Path

from lmx.engines.llama.packing import StatePacker
from lmx.engines.llama.states import LlamaStore, LlamaTier
from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.records import DiskSettings, Namespace
from lmx.engines.prefix.fingerprint import fingerprint_files
from lmx.protocol.messages import Load

# Of names and blocks, beside what the library's version says.
LAYOUT = 1
# What waits to be written is memory beyond the store's only if it was evicted since. Whole states
# of hybrid models, and what a slot of a large model has to give up at once, have to fit.
QUEUE_BYTES = 10**9
# How the parts of a split file are called, but for their number.
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


def open_disk(load: Load, store: LlamaStore, device: str) -> LlamaTier | None:
    """Where the model keeps prompts beyond its life, if anywhere.

    Args:
        load: Says which model, and where.
        store: What it keeps in memory.
        device: What computes it.
    """
    if load.prefix_disk is None or not store.is_on:
        return None
    namespace = Namespace(
        model=fingerprint_files(model_files(Path(load.source))),
        dtype=f"{load.kv_bits or 16} bits on {device}",
        library=f"llama-cpp-python {version('llama-cpp-python')} layout {LAYOUT}",
    )
    cap_bytes = load.prefix_disk.cap_bytes
    settings = DiskSettings(cap_bytes=cap_bytes, queue_bytes=min(cap_bytes, QUEUE_BYTES))
    cache = DiskCache.open(Path(load.prefix_disk.path), namespace, settings=settings)
    return LlamaTier(store, cache, StatePacker())


def model_files(path: Path) -> list[Path]:
    """A GGUF file, with all its parts if it is the first of several."""
    if (found := SPLIT.search(path.name)) is None:
        return [path]
    stem = re.escape(path.name[: found.start()])
    part = re.compile(rf"{stem}-\d{{5}}-of-{found[1]}\.gguf", re.IGNORECASE)
    return [file for file in path.parent.iterdir() if part.fullmatch(file.name)]
