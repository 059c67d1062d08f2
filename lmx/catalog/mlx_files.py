"""MLX directories on disk: the configuration, and which weight files there should be and are.

Reads files, so it runs off the event loop. Never a tensor, and nothing of `config.json` but that it
is an object: what it says is for `lmx.catalog.mlx_config`.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lmx.catalog import mlx_config
from lmx.errors import CorruptModel
from lmx.protocol.values import Purpose

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
# Of sentence-transformers: what comes after an encoder.
MODULES_FILE = "modules.json"
WEIGHTS_SUFFIX = ".safetensors"
# What mlx-lm loads: repositories may hold the same weights under another name, too.
WEIGHTS_PREFIX = "model"
# Indices of the largest models have some hundred thousand entries of 100 bytes.
MAX_JSON_BYTES = 64 * 1024 * 1024


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]
    metadata: Any = None


_INDEX = msgspec.json.Decoder(_Index)


class MlxModel(NamedTuple):
    """What can be known of a directory without loading it.

    Attributes:
        config: Its `config.json`.
        weight_bytes: Of the files that would be loaded.
    """

    config: dict[str, Any]
    weight_bytes: int


class WeightIndex(NamedTuple):
    """Which files hold the weights.

    Attributes:
        shards: Their names.
        parameter_count: Of the whole model, where the index says so; mlx-lm writes it.
    """

    shards: frozenset[str]
    parameter_count: int | None


def read_mlx(directory: Path) -> MlxModel:
    """Read what a plan of a directory's memory needs.

    Raises:
        CorruptModel: It cannot be read, or is no model.
    """
    config = read_config(directory / CONFIG_FILE)
    try:
        sizes = {path.name: path.stat().st_size for path in directory.glob("*" + WEIGHTS_SUFFIX)}
    except OSError as error:
        raise CorruptModel(f"{directory} cannot be read: {error.strerror}") from error
    return MlxModel(config, sum(sizes[name] for name in loaded_weights(sizes)))


def loaded_weights(names: Iterable[str]) -> list[str]:
    """The weight files that would be loaded, of all files of a directory."""
    weights = [name for name in names if name.endswith(WEIGHTS_SUFFIX) and name[0] != "."]
    return [name for name in weights if name.startswith(WEIGHTS_PREFIX)]


def read_index(path: Path | str) -> WeightIndex:
    """Read `model.safetensors.index.json`.

    Raises:
        CorruptModel: It cannot be read or is none.
    """
    try:
        index = _INDEX.decode(_read(path))
    except msgspec.DecodeError as error:
        raise CorruptModel(f"{INDEX_FILE} does not say where the weights are: {error}") from error
    count = index.metadata.get("total_parameters") if isinstance(index.metadata, dict) else None
    return WeightIndex(frozenset(index.weight_map.values()), count if type(count) is int else None)


def read_config(path: Path | str) -> dict[str, Any]:
    """Read `config.json`.

    Raises:
        CorruptModel: It cannot be read or is no JSON object.
    """
    data = _read(path)
    try:
        config = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        config = _read_loosely(data)
    if not isinstance(config, dict):
        raise CorruptModel(f"{CONFIG_FILE} is no JSON object")
    return config


def _read_loosely(data: bytes) -> Any:
    """JSON with infinities, which Python writes and some models' files have."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{CONFIG_FILE} is no JSON: {error}") from error


def _read(path: Path | str) -> bytes:
    """A whole file. In one call of the system where possible: ten thousand may follow."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > MAX_JSON_BYTES:
                raise CorruptModel(f"{Path(path).name} is too large")
            return os.read(descriptor, size_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CorruptModel(f"{Path(path).name} cannot be read: {error.strerror}") from error


def mlx_purpose(directory: Path) -> Purpose:
    """What the model in a directory is for.

    Raises:
        CorruptModel: Its configuration cannot be read.
    """
    has_modules = (directory / MODULES_FILE).exists()
    config = read_config(directory / CONFIG_FILE)
    return mlx_config.purpose(config, own_name(directory), has_modules=has_modules)


def own_name(directory: Path) -> str:
    """What a directory's model is called: revisions in the Hugging Face cache are named by hash."""
    is_revision = directory.parent.name == "snapshots"
    return directory.parent.parent.name if is_revision else directory.name
