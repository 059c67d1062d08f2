"""The index of ``search_documents``, and the search over a folder with vectors made by hand."""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmx.config import SkillSettings
from lmx.daemon.origin import Origin
from lmx.daemon.vectors import Numbers
from lmx.errors import InvalidRequest
from lmx.protocol.messages import Embed, Score
from lmx.skills.box.plan import BoxPlan, BoxResult
from lmx.skills.builtin.passages import read_passages
from lmx.skills.search.documents import DocumentSearch
from lmx.skills.search.index import MAX_PASSAGES, Index
from lmx.skills.search.survey import MAX_FILE_BYTES, survey

WORDS = ("cat", "dog", "fish", "bird")


def vector(text: str) -> "array[float]":
    """Counts of a few words, and a little of everything."""
    return array("f", [text.count(word) + 0.01 for word in WORDS])


class WordVectors:
    """A model of four words, and a reranking model that likes short texts.

    Attributes:
        model_id: Of the embedding model.
        embedded: Every text that was embedded.
    """

    def __init__(self) -> None:
        self.model_id = "words"
        self.embedded: list[str] = []

    async def embed(self, ask: Embed, *, model_name: str, origin: Origin) -> Numbers:
        texts = [str(text) for text in ask.inputs]
        self.embedded += texts
        values = b"".join(vector(text).tobytes() for text in texts)
        return Numbers(self.model_id, "embedding", len(texts), len(WORDS), values, 1)

    async def score(self, ask: Score, *, model_name: str, origin: Origin) -> Numbers:
        values = array("f", [1 / len(text) for _, text in ask.pairs]).tobytes()
        return Numbers("short", "cross-encoder", len(ask.pairs), 1, values, 1)


class SameProcessBox:
    """Calls the function right here.

    Attributes:
        read: Paths of every run.
    """

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    async def run(self, plan: BoxPlan) -> BoxResult:
        self.read.append(plan.arguments["paths"])
        if any("poison" in path for path in plan.arguments["paths"]):
            return BoxResult(end="crashed", error="SIGSEGV")
        return BoxResult(end="done", value=read_passages(**plan.arguments))


def make_search(
    folder: Path | None, *, has_reranker: bool = False
) -> tuple[DocumentSearch, WordVectors, SameProcessBox]:
    """A search over a folder."""
    vectors, box = WordVectors(), SameProcessBox()
    settings = SkillSettings(search_folder=str(folder) if folder else None)
    return DocumentSearch(settings, vectors, box, has_reranker=has_reranker), vectors, box


def write(folder: Path, **texts: str) -> None:
    """Files ``NAME.txt``."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)


async def ask(search: DocumentSearch, query: str, top_k: int = 2) -> list[str]:
    """Paths of what was found."""
    answer = await search({"query": query, "top_k": top_k})
    return [one["path"] for one in answer["results"]]


async def test_the_nearest_passages_are_found(tmp_path: Path) -> None:
    """In order, with path, line, text and score."""
    write(tmp_path, a="a cat", b="\n\na dog and a dog", c="a fish and a cat")
    search, _, _ = make_search(tmp_path)
    assert ["a.txt", "c.txt"] == await ask(search, "cat")
    (hit,) = (await search({"query": "dog", "top_k": 1}))["results"]
    assert ("b.txt", 3, "a dog and a dog") == (hit["path"], hit["line"], hit["text"])
    assert 0.99 < hit["score"] <= 1.0001


async def test_only_what_changed_is_read_and_embedded_again(tmp_path: Path) -> None:
    """Of a changed file only new passages; what is gone is found no more."""
    write(tmp_path, a="a cat", b="a dog")
    search, vectors, box = make_search(tmp_path)
    await ask(search, "cat")
    vectors.embedded.clear()
    assert ["b.txt"] == await ask(search, "dog", 1)
    assert ["dog"] == vectors.embedded
    assert 1 == len(box.read)
    write(tmp_path, b="a bird", c="a cat")
    (tmp_path / "a.txt").unlink()
    assert ["b.txt"] == await ask(search, "bird", 1)
    assert ["dog", "bird", "a bird"] == vectors.embedded
    assert ["c.txt"] == await ask(search, "cat", 1)


async def test_large_files_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """So that what a run gives back at once stays small."""
    write(tmp_path, **{f"large{number}": "\n" * 1_500_000 for number in range(3)}, z="a cat")
    search, _, box = make_search(tmp_path)
    assert ["z.txt"] == await ask(search, "cat")
    assert [2, 2] == [len(paths) for paths in box.read]


async def test_another_model_means_new_vectors(tmp_path: Path) -> None:
    """Vectors of two models are never compared."""
    write(tmp_path, a="a cat")
    search, vectors, _ = make_search(tmp_path)
    await ask(search, "cat")
    vectors.model_id = "others"
    await ask(search, "cat")
    assert ["cat", "a cat", "cat", "a cat"] == vectors.embedded


async def test_a_reranking_model_has_the_last_word(tmp_path: Path) -> None:
    """Among the nearest passages it decides."""
    write(tmp_path, a="cat cat cat", b="cat", c="dog " * 20)
    search, _, _ = make_search(tmp_path, has_reranker=True)
    assert ["b.txt"] == await ask(search, "cat", 1)


async def test_a_file_that_ends_its_reader_hides_no_other(tmp_path: Path) -> None:
    """The others are read one by one, and it is not tried again until it changes."""
    write(tmp_path, a="a cat", poison="a dog", z="a fish")
    search, _, box = make_search(tmp_path)
    assert ["a.txt", "z.txt"] == sorted(await ask(search, "cat", 3))
    box.read.clear()
    await ask(search, "cat")
    assert [] == box.read


async def test_without_a_folder_the_setting_is_named() -> None:
    """The refusal says what to do."""
    search, _, _ = make_search(None)
    with pytest.raises(InvalidRequest, match=r"skills\.search_folder"):
        await ask(search, "cat")


async def test_an_empty_folder_has_no_results(tmp_path: Path) -> None:
    """Neither does one that is not there."""
    for folder in (tmp_path, tmp_path / "missing"):
        search, _, _ = make_search(folder)
        assert [] == await ask(search, "cat")


def names(folder: Path) -> Sequence[str]:
    """What a survey finds."""
    return [Path(path).name for path in survey(folder)]


def test_a_survey_finds_texts_and_nothing_else(tmp_path: Path) -> None:
    """No hidden, huge, linked, empty or special file, and no folder of packages."""
    inside = tmp_path / "docs"
    (inside / "sub").mkdir(parents=True)
    (inside / "node_modules").mkdir()
    (inside / ".git").mkdir()
    for name in ("b.md", "a.TXT", "sub/c.py", "node_modules/no.js", ".git/no.txt", ".no.txt"):
        (inside / name).write_text("x")
    (inside / "no.png").write_text("x")
    (inside / "empty.txt").touch()
    (inside / "huge.txt").write_bytes(bytes(MAX_FILE_BYTES + 1))
    (tmp_path / "outside.txt").write_text("x")
    (inside / "link.txt").symlink_to(tmp_path / "outside.txt")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe.txt")
    assert ["a.TXT", "b.md", "c.py"] == names(inside)


def test_an_index_has_an_end() -> None:
    """What is beyond it is left out, and it says so; room that becomes free is used."""
    index = Index()
    index.put("a", (1,), ((1, "x") for _ in range(MAX_PASSAGES - 1)))
    assert (False, MAX_PASSAGES - 1) == (index.is_full, index.passage_count)
    index.put("b", (1,), [(1, "y"), (2, "z")])
    assert (True, MAX_PASSAGES, ["x", "y"]) == (index.is_full, index.passage_count, index.missing())
    assert ["b"] == index.changed({"b": (2,)})
    assert (1, 1) == (index.passage_count, index.file_count)


def test_vectors_of_no_length_are_compared_all_the_same() -> None:
    """A model may give zeros."""
    index = Index()
    index.put("a", (1,), [(1, "x")])
    index.learn(["x"], bytes(8))
    hits: Any = index.nearest(array("f", [0.0, 0.0]), 3)
    assert [0.0] == [hit.score for hit in hits]
