"""What to call each model that was found, so that its id leads back to it. Pure.

The same rules as `lmx.catalog.locate`, over directories that have been read already: it would look
at the disk a hundred thousand times to name ten thousand models. A model that no id leads to, as
another one of that name comes first, is called by its path.
"""

import posixpath
from collections.abc import Iterator, Sequence
from functools import cache

from lmx.catalog.folders import hub_name
from lmx.catalog.gguf_names import SUFFIX, choose_file, quantisation_of
from lmx.catalog.locate import GGUF_REPOSITORY
from lmx.catalog.places import Place
from lmx.catalog.specs import parse_spec

# Ids of folders that people make for one model are a publisher's and a repository's name.
REPOSITORY_PARTS = 2


class Ids:
    """Names for what is in these places.

    Args:
        places: In the order in which `locate` looks at them.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        # Plain places by id, and revisions in the Hugging Face cache by their repository's folder:
        # several ids mean the same one.
        self._plain: dict[str, list[Place]] = {}
        self._hub: dict[str, Place] = {}
        self._files: dict[str, str] = {}
        for place in places:
            if place.is_plain:
                self._plain.setdefault(place.id, []).append(place)
                self._note_files(place)
            elif place.id:
                self._hub[hub_name(place.id)] = place
        self._choose = cache(_choose)

    def of_directory(self, place: Place) -> str:
        """The id of an MLX directory."""
        return place.id if self._leads(place.id, "", place.path) else _path_id(place.path)

    def of_file(self, place: Place, name: str) -> str:
        """The id of a GGUF file, given by its name in a place."""
        path = f"{place.path}/{name}"
        for source, variant in _candidates(place, name):
            if self._leads(source, variant, path):
                return f"{source}@{variant}" if variant else source
        return path

    def of_nothing(self, place_id: str, path: str) -> str:
        """The id of a directory in which nothing can be loaded yet."""
        is_free = _means(place_id, "") and self._find(place_id, "") is None
        return place_id if is_free else _path_id(path)

    def _leads(self, source: str, variant: str, path: str) -> bool:
        if not _means(source, variant):
            return False
        found = self._find(source, variant)
        # One that cannot be loaded is found by nothing; its id only must not mean another model.
        return found == path or (found is None and not variant and self._is_only(source, path))

    def _is_only(self, source: str, path: str) -> bool:
        return [place.path for place in self._at(source)][:1] == [path]

    def _find(self, source: str, variant: str) -> str | None:
        """The path that `locate` finds for an id of any backend."""
        places = self._at(source)
        for place in places:
            if not variant and place.is_mlx:
                return place.path
        for place in (*places, *self._at(source + GGUF_REPOSITORY)):
            if chosen := self._choose(place, variant):
                return f"{place.path}/{chosen}"
        return None if variant else self._files.get(source)

    def _at(self, source: str) -> list[Place]:
        revision = self._hub.get(hub_name(source))
        plain = self._plain.get(source, [])
        return plain if revision is None else [*plain, revision]

    def _note_files(self, place: Place) -> None:
        for name, state in place.files.items():
            if name.endswith(SUFFIX) and state is not None:
                stem = name.removesuffix(SUFFIX)
                self._files.setdefault(
                    f"{place.id}/{stem}".removeprefix("/"), f"{place.path}/{name}"
                )


def _choose(place: Place, variant: str) -> str | None:
    return choose_file([n for n, state in place.gguf_files.items() if state is not None], variant)


def _candidates(place: Place, name: str) -> Iterator[tuple[str, str]]:
    """Ids and quantisations that may lead to a file, the most telling first."""
    variant = quantisation_of(name)
    in_folder = [(place.id, variant), (place.id, "")] if variant else [(place.id, "")]
    by_name = (f"{place.id}/{name.removesuffix(SUFFIX)}".removeprefix("/"), "")
    if place.id.count("/") + 1 >= REPOSITORY_PARTS or not place.is_plain:
        yield from in_folder
    yield by_name
    yield from in_folder


def _means(source: str, variant: str) -> bool:
    """Whether an id is read as itself, and a path made of it is the path that was walked."""
    if not source or posixpath.normpath(source) != source or ".." in source.split("/"):
        return False
    spec = parse_spec(f"{source}@{variant}" if variant else source)
    return (spec.kind, spec.source, spec.variant) == ("id", source, variant)


def _path_id(path: str) -> str:
    """A directory's path as it is read as one, whatever its name ends with."""
    spec = parse_spec(path)
    return path if (spec.kind, spec.source) == ("directory", path) else f"{path}/"
