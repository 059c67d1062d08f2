"""The internal skill ``search_documents``.

Each question looks whether files changed, reads those in a contained process, has new passages
embedded by LMX's own model, and compares. What is known when a question is given up stays known,
so the next one goes on from there. A reranking model, if settings name one, has the last word.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from lmx.config import SkillSettings
from lmx.daemon.origin import Origin
from lmx.daemon.vectors import Numbers
from lmx.errors import InvalidRequest, LmxError
from lmx.protocol.messages import Embed, Score
from lmx.skills.box.plan import BoxPlan, BoxResult, Limits
from lmx.skills.manifest import Permissions
from lmx.skills.search.index import Hit, Index, split_vectors
from lmx.skills.search.survey import MAX_FILE_BYTES, Signature, size_of, survey

READ = "lmx.skills.builtin.passages:read_passages"
FILES_AT_ONCE = 64
# What comes back is decoded on the event loop, which takes some milliseconds per megabyte.
BYTES_AT_ONCE = 4_000_000
TEXTS_AT_ONCE = 32
READ_LIMITS = Limits(wall_s=20.0, cpu_s=20.0, output_bytes=64_000_000)
# Of the nearest passages, so many times those asked for are looked at again by a reranking model.
RERANKED_TIMES = 4
ORIGIN = Origin(client="skills", route="search_documents")


class Vectors(Protocol):
    """Answers with numbers: see `lmx.daemon.vectors.VectorDesk`."""

    async def embed(self, ask: Embed, *, model_name: str, origin: Origin) -> Numbers:
        """The vectors of texts."""

    async def score(self, ask: Score, *, model_name: str, origin: Origin) -> Numbers:
        """The scores of pairs."""


class Boxes(Protocol):
    """Runs functions contained: see `lmx.skills.box`."""

    async def run(self, plan: BoxPlan) -> BoxResult:
        """Run a plan to its end."""


class DocumentSearch:
    """Searches a folder.

    Args:
        settings: Which folder.
        vectors: Embeds with the model of the search.
        box: Reads the files.
        has_reranker: Whether the settings name a reranking model.
    """

    def __init__(
        self, settings: SkillSettings, vectors: Vectors, box: Boxes, *, has_reranker: bool
    ) -> None:
        named = settings.search_folder
        self._folder = Path(named).expanduser().absolute() if named else None
        self._vectors = vectors
        self._box = box
        self._has_reranker = has_reranker
        self._index = Index()
        self._turn = trio.Lock()

    async def __call__(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer a question.

        Args:
            arguments: ``query`` and ``top_k``.

        Raises:
            LmxError: There is no folder, or a model cannot answer.

        Cancellation:
            What was read and embedded stays known.
        """
        if self._folder is None:
            raise InvalidRequest(
                "no folder is searched; the setting skills.search_folder names one"
            )
        query, count = arguments["query"], arguments["top_k"]
        numbers = await self._embed([query])
        async with self._turn:
            self._index.use_model(numbers.model_id)
            await self._read_changes(self._folder)
            await self._embed_missing(numbers.model_id)
            (direction,) = split_vectors(numbers.values, 1)
            wanted = count * RERANKED_TIMES if self._has_reranker else count
            hits = await trio.to_thread.run_sync(self._index.nearest, direction, wanted)
            answer = {
                "files": self._index.file_count,
                "passages": self._index.passage_count,
                "is_partial": self._index.is_full,
            }
        if self._has_reranker and hits:
            hits = await self._rerank(query, hits)
        return {"results": list(_shown(hits[:count], self._folder)), **answer}

    async def _read_changes(self, folder: Path) -> None:
        found = await trio.to_thread.run_sync(survey, folder, abandon_on_cancel=True)
        changed = self._index.changed(found)
        for paths in _batches(changed, found):
            await self._read(paths, found)

    async def _read(self, paths: Sequence[str], found: dict[str, Signature]) -> None:
        """Read files; where one spoils the run for the others, each alone."""
        plan = BoxPlan(
            entrypoint=READ,
            arguments={"paths": list(paths), "max_bytes": MAX_FILE_BYTES},
            permissions=Permissions(files=(str(self._folder),)),
            limits=READ_LIMITS,
        )
        result = await self._box.run(plan)
        if result.is_good:
            for one in result.value:
                self._index.put(one["path"], found[one["path"]], one["passages"])
        elif result.end == "refused":
            raise InvalidRequest(f"skills.search_folder: {result.error}")
        elif len(paths) == 1:
            self._index.put(paths[0], found[paths[0]], [])
        else:
            for path in paths:
                await self._read([path], found)

    async def _embed_missing(self, model_id: str) -> None:
        missing = self._index.missing()
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            texts = missing[start : start + TEXTS_AT_ONCE]
            numbers = await self._embed(texts)
            if numbers.model_id != model_id:
                raise LmxError("another embedding model came meanwhile; ask again")
            self._index.learn(texts, numbers.values)

    async def _embed(self, texts: Sequence[str]) -> Numbers:
        ask = Embed(sequence=0, inputs=list(texts), truncate=True)
        return await self._vectors.embed(ask, model_name="", origin=ORIGIN)

    async def _rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """In a reranking model's order."""
        ask = Score(sequence=0, pairs=[(query, hit.passage.text) for hit in hits])
        numbers = await self._vectors.score(ask, model_name="", origin=ORIGIN)
        scores = [vector[0] for vector in split_vectors(numbers.values, len(hits))]
        scored = [Hit(hit.passage, score) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: hit.score, reverse=True)


def _batches(paths: Sequence[str], found: dict[str, Signature]) -> Iterator[list[str]]:
    """Files to be read together."""
    batch: list[str] = []
    room_bytes = BYTES_AT_ONCE
    for path in paths:
        size_bytes = size_of(found[path])
        if batch and (len(batch) == FILES_AT_ONCE or size_bytes > room_bytes):
            yield batch
            batch, room_bytes = [], BYTES_AT_ONCE
        batch.append(path)
        room_bytes -= size_bytes
    if batch:
        yield batch


def _shown(hits: Sequence[Hit], folder: Path) -> Iterator[dict[str, Any]]:
    for hit in hits:
        path = Path(hit.passage.path)
        yield {
            "path": str(path.relative_to(folder)),
            "line": hit.passage.line,
            "text": hit.passage.text,
            "score": round(hit.score, 4),
        }
