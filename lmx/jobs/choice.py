"""Which files of a repository a model needs. Pure: names in, names out.

A repository often holds the same model several times: weights in pickles beside safetensors, a
dozen quantisations as GGUF files, exports for other programs. Never is more fetched than one of
them, unless somebody asks for files by name; and never a pickle, which can run code when it is
read.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lmx.catalog.gguf_names import choose_file, is_gguf, parse_split
from lmx.catalog.mlx_files import CONFIG_FILE, WEIGHTS_SUFFIX, loaded_weights
from lmx.errors import InvalidRequest, UnsupportedModel
from lmx.protocol.jobs import PlanOrder, StoredAs

# Beside the weights: configuration, tokenizers, templates, and the terms of use.
COMPANIONS = re.compile(
    r"[^/]+\.(?:json|txt|model|jinja|tiktoken)|(?:LICENSE|LICENCE|NOTICE)[^/]*|"
    # What sentence-transformers keeps of the layers behind an encoder.
    r"\d+_\w+/[^/]+\.(?:json|safetensors)|additional_chat_templates/[^/]+\.jinja"
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

Matches = Callable[[Iterable[str], Sequence[str]], list[str]]


class Choice(NamedTuple):
    """What to fetch.

    Attributes:
        stored_as: The format of the weights.
        paths: The files.
    """

    stored_as: StoredAs
    paths: list[str]


def choose_files(paths: Sequence[str], order: PlanOrder, matches: Matches) -> Choice:
    """The files that a download fetches.

    Args:
        paths: Of all files in the repository.
        order: What somebody asked for.
        matches: Of some paths those that match one of some globs.

    Raises:
        UnsupportedModel: Nothing in it can be loaded here.
        InvalidRequest: The patterns leave nothing of it.
    """
    ignored = set(matches(paths, order.ignore_patterns))
    left = [path for path in paths if path not in ignored]
    if order.allow_patterns:
        return _choose_named(matches(left, order.allow_patterns), order.repo_id)
    safe = [path for path in left if not _is_pickle(path)]
    if _wants_mlx(order) and (weights := _mlx_weights(safe)):
        return Choice("mlx", sorted({*weights, *filter(COMPANIONS.fullmatch, safe)}))
    if order.backend != "mlx" and (parts := _gguf_parts(safe, order.variant)):
        return Choice("gguf", parts)
    raise _refusal(paths, left, order)


def _choose_named(named: list[str], repo_id: str) -> Choice:
    safe = sorted(path for path in named if not _is_pickle(path))
    if not safe:
        if named:
            raise _pickles_only(repo_id, named)
        raise InvalidRequest(f"no file of {repo_id} matches the patterns", param="allow_patterns")
    return Choice("gguf" if any(map(is_gguf, safe)) else "mlx", safe)


def _wants_mlx(order: PlanOrder) -> bool:
    """Who names a GGUF quantisation has chosen the format."""
    return order.backend != "gguf" and not order.variant


def _mlx_weights(paths: Sequence[str]) -> list[str]:
    """What mlx-lm loads; nothing where no configuration says what it is."""
    if CONFIG_FILE not in paths:
        return []
    top = [path for path in paths if "/" not in path and path.endswith(WEIGHTS_SUFFIX)]
    return loaded_weights(top) or top


def _gguf_parts(paths: Sequence[str], variant: str) -> list[str]:
    """One GGUF model: its file, or all parts that its name tells of."""
    chosen = choose_file(list(paths), variant)
    split = None if chosen is None else parse_split(chosen)
    if chosen is None or split is None:
        return [] if chosen is None else [chosen]
    folder = chosen.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    return [f"{prefix}{split.part(index)}" for index in range(1, split.count + 1)]


def _is_pickle(path: str) -> bool:
    return path.lower().endswith(PICKLES)


def _pickles_only(repo_id: str, paths: Sequence[str]) -> UnsupportedModel:
    found = next(path for path in paths if _is_pickle(path))
    return UnsupportedModel(
        f"{repo_id} has its weights in pickles ({found}), which can run code when they are read; "
        "LMX loads safetensors and GGUF files"
    )


def _refusal(
    paths: Sequence[str], left: Sequence[str], order: PlanOrder
) -> UnsupportedModel | InvalidRequest:
    repo_id = order.repo_id
    if order.ignore_patterns and len(left) < len(paths):
        return InvalidRequest(f"the patterns leave no model of {repo_id}", param="ignore_patterns")
    if order.variant and any(map(is_gguf, paths)):
        return UnsupportedModel(f"{repo_id} has no GGUF file of {order.variant.upper()}")
    if order.backend != "auto" and (_mlx_weights(paths) or any(map(is_gguf, paths))):
        return UnsupportedModel(f"{repo_id} has no model in the format {order.backend}")
    if any(map(_is_pickle, paths)):
        return _pickles_only(repo_id, paths)
    return UnsupportedModel(f"{repo_id} holds no model that LMX can load")
