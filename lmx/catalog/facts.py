"""What the files of one model say, remembered for as long as the files stay as they are.

Reads files, so it runs off the event loop. A model that cannot be read or is not all there is a
fact like any other, and is remembered, too.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from lmx.catalog import mlx_config
from lmx.catalog.gguf_glance import glance_at
from lmx.catalog.inventory import Status
from lmx.catalog.mlx_files import (
    CONFIG_FILE,
    INDEX_FILE,
    MODULES_FILE,
    WEIGHTS_SUFFIX,
    WeightIndex,
    loaded_weights,
    own_name,
    read_config,
    read_index,
)
from lmx.catalog.places import Files
from lmx.errors import CorruptModel, LoadError
from lmx.protocol.values import Purpose

# How many missing files a reason names.
NAMED_FILES = 3


class Facts(Struct, frozen=True, kw_only=True):
    """What a row says of a model's content; see `lmx.catalog.inventory.InventoryRow`.

    Attributes:
        is_model: It is a language model at all, as far as can be told.
    """

    status: Status = "complete"
    reason: str = ""
    quantisation: str = ""
    architecture: str = ""
    parameter_count: int | None = None
    context_tokens: int | None = None
    purpose: Purpose = "generation"
    is_model: bool = True


NO_MODEL = Facts(is_model=False)


class FactsCache:
    """Facts by path, with what the files looked like when they were read.

    One thread at a time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Facts]] = {}
        self._used: dict[str, tuple[object, Facts]] = {}

    def remember(self, path: str, states: object, read: Callable[[], Facts]) -> Facts:
        """Facts about the model at `path`, read only if its files are not as they were.

        Args:
            path: Where it is.
            states: What its files look like from outside; compared by value.
            read: Reads them.
        """
        found = self._kept.get(path)
        if found is None or found[0] != states:
            found = (states, read())
        self._used[path] = found
        return found[1]

    def forget_unused(self) -> None:
        """Drop all that nobody has asked for since the last time."""
        self._kept, self._used = self._used, {}


def fingerprint(state: os.stat_result | None) -> tuple[int, int] | None:
    """By what a file is taken for unchanged."""
    return None if state is None else (state.st_size, state.st_mtime_ns)


def read_gguf_facts(paths: Sequence[str], sizes: Sequence[int]) -> Facts:
    """What the head of a GGUF file says, or of the files of a split one."""
    try:
        glance = glance_at(paths, sizes)
    except OSError as error:
        return Facts(status="unreadable", reason=f"it cannot be read: {error.strerror}")
    except LoadError as error:
        return Facts(status="unreadable", reason=error.message)
    if glance.purpose == "other":
        return NO_MODEL
    short = glance.short_part
    reason = "" if short is None else f"{Path(paths[short]).name} is shorter than its header says"
    return Facts(
        status="incomplete" if reason else "complete",
        reason=reason,
        quantisation=glance.quantisation,
        architecture=glance.architecture,
        parameter_count=glance.parameter_count,
        context_tokens=glance.context_tokens,
        purpose=glance.purpose,
    )


def read_mlx_facts(directory: str, files: Files) -> Facts:
    """What `config.json` and the index of the weights say.

    Args:
        directory: Where it is.
        files: What is there; `config.json` is.
    """
    has_weights = any(name.endswith(WEIGHTS_SUFFIX) for name in files)
    try:
        config = read_config(f"{directory}/{CONFIG_FILE}")
        index = read_index(f"{directory}/{INDEX_FILE}") if files.get(INDEX_FILE) else None
    except CorruptModel as error:
        # Without weights it may be anybody's file of that name.
        return Facts(status="unreadable", reason=error.message) if has_weights else NO_MODEL
    if not mlx_config.architecture(config):
        return NO_MODEL
    reason = _what_is_missing(files, index)
    return Facts(
        status="incomplete" if reason else "complete",
        reason=reason,
        quantisation=mlx_config.quantisation_name(config),
        architecture=mlx_config.architecture(config),
        parameter_count=None if reason else _parameter_count(config, files, index),
        context_tokens=mlx_config.own_context_tokens(config),
        purpose=mlx_config.purpose(
            config, own_name(Path(directory)), has_modules=MODULES_FILE in files
        ),
    )


def _what_is_missing(files: Files, index: WeightIndex | None) -> str:
    dangling = [name for name, state in files.items() if state is None]
    missing = sorted({*dangling, *(index.shards - files.keys() if index else ())})
    if missing:
        more = len(missing) - NAMED_FILES
        return f"it lacks {', '.join(missing[:NAMED_FILES])}" + (f" and {more} more" * (more > 0))
    if not loaded_weights(files):
        return f"it has {CONFIG_FILE}, but no weights named model*{WEIGHTS_SUFFIX}"
    return ""


def _parameter_count(config: dict[str, Any], files: Files, index: WeightIndex | None) -> int | None:
    """As the index says, or as many as fill the weights' bytes."""
    if index is not None and index.parameter_count:
        return index.parameter_count
    states = [files[name] for name in loaded_weights(files)]
    size_bytes = sum(state.st_size for state in states if state is not None)
    return round(8 * size_bytes / mlx_config.stored_bits(config))
