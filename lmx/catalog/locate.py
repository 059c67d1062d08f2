"""Where on disk a model is, and in which format. Looks at directories: it runs off the event loop.

Ids are looked for in the places of `lmx.catalog.folders`, in that order; an MLX directory in any of
them comes before a GGUF file. Nothing is opened: whether the files are sound is for
`lmx.catalog.gguf_files` and the engines to say.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from lmx.catalog.folders import Root, hub_name, model_roots
from lmx.catalog.gguf_files import choose_gguf
from lmx.catalog.gguf_names import SUFFIX
from lmx.catalog.mlx_files import CONFIG_FILE, WEIGHTS_SUFFIX
from lmx.catalog.specs import ModelSpec
from lmx.errors import CorruptModel, ModelNotFound

WEIGHTS = "*" + WEIGHTS_SUFFIX
# Publishers keep the GGUF files of a model in a repository of this name beside it.
GGUF_REPOSITORY = "-GGUF"


class Located(Struct, frozen=True):
    """A model on disk.

    Attributes:
        format: How it is stored.
        path: An MLX directory, or a GGUF file.
    """

    format: Literal["mlx", "gguf"]
    path: Path


def locate(spec: ModelSpec, home: Path, folders: Sequence[str] = ()) -> Located:
    """Find what a spec of the kinds ``gguf``, ``directory`` and ``id`` means.

    A GGUF file is found whatever the backend: it can be converted. Elsewhere a backend that is
    asked for restricts the search to its format.

    Args:
        spec: What somebody asked for.
        home: ``LMX_HOME``.
        folders: Configured folders in which ids are looked for, too.

    Raises:
        ModelNotFound: It is nowhere, or nowhere in the format asked for.
        CorruptModel: A directory that a person named holds no model, or the system refuses to look.
    """
    with _reading(spec.source):
        if spec.kind == "gguf":
            return _locate_file(_absolute(spec.source))
        if spec.kind == "directory":
            return _locate_directory(_absolute(spec.source), spec)
        # A folder that cannot be entered must not hide what is in the others.
        roots = model_roots(home, folders)
        return _locate_id(spec, [root for root in roots if not _is_barred(root.path)])


def find_snapshot(repository: Path) -> Path | None:
    """The revision of a repository in the Hugging Face cache that is its main one, if it has one.

    Raises:
        OSError: The system refuses to look.
    """
    reference = repository / "refs/main"
    if not reference.is_file():
        return None
    revision = reference.read_text("utf-8", "replace").strip()
    return repository / "snapshots" / revision


def _locate_file(path: Path) -> Located:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}", param="model")
    return Located("gguf", path)


def _locate_directory(path: Path, spec: ModelSpec) -> Located:
    if not path.is_dir():
        raise ModelNotFound(f"there is no directory {path}", param="model")
    if found := _look(path, spec):
        return found
    if other := _look(path, _anyhow(spec)):
        raise _not_as(spec, other)
    raise CorruptModel(
        f"{path} is no model directory: it has neither {CONFIG_FILE} with {WEIGHTS} nor a GGUF file"
    )


def _locate_id(spec: ModelSpec, roots: Sequence[Root]) -> Located:
    if found := _search(spec, roots):
        return found
    if other := _search(_anyhow(spec), roots):
        raise _not_as(spec, other)
    incomplete = [place for place in _places(spec.source, roots) if (place / CONFIG_FILE).is_file()]
    if incomplete:
        raise CorruptModel(
            f"{incomplete[0]} has {CONFIG_FILE}, but neither {WEIGHTS} nor GGUF files"
        )
    raise ModelNotFound(
        f"{spec.source} is not on disk: it is neither a directory, nor below any of "
        f"{', '.join(str(root.path) for root in roots if root.layout == 'plain')}, nor in the "
        "Hugging Face cache",
        param="model",
    )


def _search(spec: ModelSpec, roots: Sequence[Root]) -> Located | None:
    """The first place with the id as an MLX directory, else with GGUF files, else a GGUF file."""
    places = list(_places(spec.source, roots))
    if _wants_mlx(spec):
        for place in places:
            if _is_mlx(place):
                return Located("mlx", place)
    if spec.backend == "mlx":
        return None
    for place in (*places, *_places(spec.source + GGUF_REPOSITORY, roots)):
        if file := choose_gguf(place, spec.variant):
            return Located("gguf", file)
    for place in places:
        file = Path(f"{place}{SUFFIX}")
        if not spec.variant and file.is_file():
            return Located("gguf", file)
    return None


def _look(place: Path, spec: ModelSpec) -> Located | None:
    """What one directory holds in a format that the spec allows."""
    if _wants_mlx(spec) and _is_mlx(place):
        return Located("mlx", place)
    file = choose_gguf(place, spec.variant) if spec.backend != "mlx" else None
    return None if file is None else Located("gguf", file)


def _is_barred(path: Path) -> bool:
    return path.exists() and not os.access(path, os.R_OK | os.X_OK)


def _wants_mlx(spec: ModelSpec) -> bool:
    """MLX is allowed; who names a GGUF quantisation has chosen the format."""
    return spec.backend != "gguf" and not spec.variant


def _is_mlx(place: Path) -> bool:
    return (place / CONFIG_FILE).is_file() and any(place.glob(WEIGHTS))


def _anyhow(spec: ModelSpec) -> ModelSpec:
    """The same model in any format and quantisation."""
    return ModelSpec(spec.id, spec.kind, spec.source)


def _not_as(spec: ModelSpec, other: Located) -> ModelNotFound:
    """The refusal of a model that is there, but not in the form asked for."""
    wanted = "MLX directory" if spec.backend == "mlx" else "GGUF file"
    variant = f" {spec.variant.upper()}" if spec.variant else ""
    return ModelNotFound(
        f"{spec.source} is not there as {wanted}{variant}, but as {other.path}", param="model"
    )


def _absolute(source: str) -> Path:
    try:
        return Path(source).expanduser().absolute()
    except RuntimeError as error:  # a tilde with the name of no user
        raise ModelNotFound(f"there is no {source}: {error}", param="model") from error


@contextmanager
def _reading(source: Path | str) -> Iterator[None]:
    """No permission, a name too long and the like: as final as a file that is damaged."""
    try:
        yield
    except OSError as error:
        raise CorruptModel(f"{source} cannot be read: {error.strerror}") from error


def _places(model_id: str, roots: Sequence[Root]) -> Iterator[Path]:
    """Where an id may be. The working directory comes last: an id may be a relative path."""
    # An id is never a way out of the folders it is looked for in.
    is_inside = not model_id.startswith("/") and ".." not in Path(model_id).parts
    for root in roots:
        if root.layout == "plain" and is_inside:
            yield root.path / model_id
        elif root.layout == "hub":
            repository = root.path / hub_name(model_id)
            if snapshot := find_snapshot(repository):
                yield snapshot
    yield Path(model_id).absolute()
