"""The inventory: every model in the folders that LMX knows, with what a list shows of it.

Reads thousands of directories and the heads of files, so it runs in a thread. Whatever it meets, it
goes on: what cannot be read becomes a row with the reason or, if it cannot be told what it is, a
problem. What is a part of a model or no language model is left out: projectors, adapters,
vocabularies, pieces of image models.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from lmx.catalog.facts import (
    Facts,
    FactsCache,
    fingerprint,
    read_gguf_facts,
    read_mlx_facts,
)
from lmx.catalog.folders import Root, model_roots
from lmx.catalog.gguf_names import Split, names_a_model, parse_split
from lmx.catalog.inventory import Format, InventoryRow, Scan
from lmx.catalog.inventory_ids import Ids
from lmx.catalog.locate import GGUF_REPOSITORY
from lmx.catalog.mlx_files import CONFIG_FILE
from lmx.catalog.places import Files, Place, Repository, Walk

# A download that nothing was written to for this long has ended. Slow ones write every few seconds.
GROWING_S = 60.0


class Inventory:
    """The models on disk, scanned when asked; what files said is kept between scans.

    Any thread may call it; scans take turns.

    Args:
        home: ``LMX_HOME``.
        folders: Configured folders.
        now_s: Tells the time in seconds since 1970.
    """

    def __init__(
        self, home: Path, folders: Sequence[str] = (), now_s: Callable[[], float] = time.time
    ) -> None:
        self._home = home
        self._folders = folders
        self._now_s = now_s
        self._cache = FactsCache()
        self._lock = threading.Lock()

    def scan(self) -> Scan:
        """Look at everything, now."""
        with self._lock:
            roots = model_roots(self._home, self._folders)
            return scan(roots, self._cache, now_s=self._now_s())


def scan(roots: Sequence[Root], cache: FactsCache, *, now_s: float) -> Scan:
    """List the models below some folders.

    Args:
        roots: The folders, in the order in which `lmx.catalog.locate` looks at them.
        cache: What files said the last time; brought up to date.
        now_s: The time in seconds since 1970.
    """
    walk = Walk(roots)
    rows = _Rows(Ids(walk.places), cache, now_s)
    for place in walk.places:
        rows.add_place(place)
    for repository in walk.repositories:
        rows.add_repository(repository)
    cache.forget_unused()
    by_id = sorted((row.id, path) for path, row in rows.by_path.items())
    return Scan(tuple(rows.by_path[path] for _, path in by_id), tuple(walk.problems))


class _Rows:
    """Rows by path: folders may lie inside one another, and the first place counts."""

    def __init__(self, ids: Ids, cache: FactsCache, now_s: float) -> None:
        self.by_path: dict[str, InventoryRow] = {}
        self._ids = ids
        self._cache = cache
        self._now_s = now_s

    def add_place(self, place: Place) -> None:
        """Rows for what one directory holds, in both formats."""
        models = list(_gguf_models(place.gguf_files))
        for name, parts in models:
            self._add_gguf(place, name, parts)
        has_config = place.files.get(CONFIG_FILE) is not None and not place.is_inside
        if has_config and (place.is_mlx or not models):
            self._add_mlx(place)
        elif place.unfinished and not models:
            self._add_beginning(place, place.files)

    def add_repository(self, repository: Repository) -> None:
        """A row for a repository of the Hugging Face cache that has no main revision."""
        if repository.fault:
            facts = Facts(status="unreadable", reason=repository.fault)
            row_id = self._ids.of_nothing(repository.id, repository.path)
            self._add(
                row_id, repository.path, files={}, facts=facts, stored_as=_format(repository.id)
            )
        else:
            self._add_beginning(repository, repository.blobs)

    def _add_beginning(self, begun: Place | Repository, files: Files) -> None:
        """A row for a download that has not brought a model yet."""
        facts = self._unfinished(Facts(reason="its download has not finished"), begun.unfinished)
        row_id = self._ids.of_nothing(begun.id, begun.path)
        self._add(row_id, begun.path, files=files, facts=facts, stored_as=_format(begun.id))

    def _add_mlx(self, place: Place) -> None:
        other = place.gguf_files
        files = {name: state for name, state in place.files.items() if name not in other}
        states = {name: fingerprint(state) for name, state in files.items()}
        facts = self._cache.remember(place.path, states, partial(read_mlx_facts, place.path, files))
        if place.unfinished and facts.status != "unreadable":
            facts = self._unfinished(facts, place.unfinished)
        row_id = self._ids.of_directory(place)
        self._add(row_id, place.path, files=files, facts=facts, stored_as="mlx")

    def _add_gguf(self, place: Place, name: str, parts: list[str]) -> None:
        path = f"{place.path}/{name}"
        if path in self.by_path:  # in a folder named like a quantisation: the one around it counts
            return
        files = {part: place.gguf_files[part] for part in parts}
        facts = _missing_parts(name, files)
        if facts is None:
            states = [state for state in files.values() if state is not None]
            facts = self._cache.remember(
                path,
                [(part, fingerprint(state)) for part, state in files.items()],
                partial(
                    read_gguf_facts,
                    [f"{place.path}/{part}" for part in parts],
                    [state.st_size for state in states],
                ),
            )
        row_id = self._ids.of_file(place, name)
        self._add(row_id, path, files=files, facts=facts, stored_as="gguf")

    def _unfinished(self, facts: Facts, unfinished: list[float]) -> Facts:
        is_growing = self._now_s - max(unfinished, default=0.0) < GROWING_S
        reason = facts.reason or "a download into it has not finished"
        return replace(facts, status="downloading" if is_growing else "incomplete", reason=reason)

    def _add(
        self, row_id: str, path: str, *, files: Files, facts: Facts, stored_as: Format
    ) -> None:
        if not facts.is_model or path in self.by_path:
            return
        states = [state for state in files.values() if state is not None]
        contents = {(state.st_dev, state.st_ino): state.st_size for state in states}
        self.by_path[path] = InventoryRow(
            id=row_id,
            path=Path(path),
            format=stored_as,
            size_bytes=sum(contents.values()),
            modified_at=max((state.st_mtime for state in states), default=0.0),
            status=facts.status,
            reason=facts.reason,
            quantisation=facts.quantisation,
            architecture=facts.architecture,
            parameter_count=facts.parameter_count,
            context_tokens=facts.context_tokens,
            purpose=facts.purpose,
        )


def _gguf_models(files: Files) -> Iterator[tuple[str, list[str]]]:
    """The GGUF models among some files: the name of the first part, and all parts that are there.

    A later part without the first one stands for its model, too.
    """
    splits: dict[tuple[str, str, int], dict[int, str]] = {}
    for name in files:
        split = parse_split(name)
        if split is not None and names_a_model(_first_part(name, split)):
            folder = name.rpartition("/")[0]
            splits.setdefault((folder, split.stem, split.count), {})[split.index] = name
        elif names_a_model(name):
            yield name, [name]
    for parts in splits.values():
        names = [parts[index] for index in sorted(parts)]
        yield names[0], names


def _first_part(name: str, split: Split) -> str:
    return name.replace(name.rpartition("/")[2], split.part(1))


def _missing_parts(name: str, files: Files) -> Facts | None:
    """What is wrong with a GGUF model already before it is opened, if anything is."""
    if None in files.values():
        return Facts(status="incomplete", reason="it is a link that leads nowhere")
    split = parse_split(name)
    if split is None:
        return None
    found = {part.index for file in files if (part := parse_split(file)) is not None}
    count = sum(1 for index in found if 1 <= index <= split.count)
    if count == split.count:
        return None
    reason = f"it has {count} of {split.count} parts"
    return Facts(status="incomplete", reason=reason)


def _format(name: str) -> Format:
    """The likely format of what has only been begun."""
    return "gguf" if name.lower().endswith(GGUF_REPOSITORY.lower()) else "mlx"
