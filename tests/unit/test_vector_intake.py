"""Requests for numbers become rows, or are refused by name before any device work."""

import pytest

from lmx.engines.fake_vectors import BEGIN_ID, SEPARATOR_ID, load_vectors
from lmx.errors import ContextTooLong, InvalidRequest
from lmx.protocol.messages import Ask, Embed, Generate, Inspect, Load, Score, TextPrompt
from lmx.protocol.values import Sampling
from lmx.worker.vector_intake import VectorsServed


def served(purpose: str = "embedding", **settings: int) -> VectorsServed:
    """A fake model."""
    query = "&".join(f"{key}={value}" for key, value in {"purpose": purpose, **settings}.items())
    return VectorsServed(load_vectors(Load("fake", query, 4)))


def test_texts_and_ids_become_rows_in_order() -> None:
    """Texts get the model's special tokens, ids are taken as they are."""
    started, job = served().accept(Embed(7, ["ab", [5, 6, 7], "c"]))
    assert [[BEGIN_ID, 97, 98], [5, 6, 7], [BEGIN_ID, 99]] == [row.ids for row in job.rows]
    assert [(7, 8)] == [(event.sequence, event.prompt_tokens) for event in started]


def test_pairs_of_a_reranking_model_are_rows() -> None:
    """Query and document together."""
    _, job = served("reranking").accept(Score(1, [("q", "d"), ("q", "e")]))
    expected = [[BEGIN_ID, ord("q"), SEPARATOR_ID, ord(c)] for c in "de"]
    assert (expected, None) == ([row.ids for row in job.rows], job.pairs)


def test_pairs_of_an_embedding_model_are_its_texts() -> None:
    """Each once, whoever it belongs to."""
    _, job = served().accept(Score(1, [("q", "d"), ("q", "q"), ("q", "d")]))
    assert (2, [(0, 1), (0, 0), (0, 1)]) == (len(job.rows), job.pairs)


LONG = "x" * 20


@pytest.mark.parametrize(
    ("purpose", "ask", "param"),
    [
        ("embedding", Embed(1, ["a", LONG, "b"]), "input.1"),
        ("embedding", Embed(1, [[1] * 20]), "input.0"),
        ("embedding", Score(1, [("a", "b"), ("a", LONG)], truncate=False), "documents.1"),
        ("embedding", Score(1, [(LONG, "b")], truncate=False), "query"),
        ("reranking", Score(1, [("a", "b"), ("a", LONG)], truncate=False), "documents.1"),
    ],
)
def test_what_is_too_long_is_named(purpose: str, ask: Ask, param: str) -> None:
    """With its place among the inputs, and what would help."""
    with pytest.raises(ContextTooLong, match="truncate") as caught:
        served(purpose, context=10).accept(ask)
    assert param == caught.value.param


@pytest.mark.parametrize(
    ("purpose", "ask"),
    [
        ("embedding", Embed(1, ["a", LONG, [1] * 20], truncate=True)),
        ("embedding", Score(1, [("a", LONG)])),
        ("reranking", Score(1, [("a", LONG)])),
    ],
)
def test_what_is_too_long_can_be_cut(purpose: str, ask: Ask) -> None:
    """No row is longer than the model reads."""
    _, job = served(purpose, context=10).accept(ask)
    assert 10 == max(len(row.ids) for row in job.rows)


@pytest.mark.parametrize(
    ("purpose", "ask", "param"),
    [
        ("embedding", Embed(1, ["a"], dimensions=9), "dimensions"),
        ("embedding", Embed(1, [[1, 999_999]]), "input"),
        ("embedding", Embed(1, [[-1]]), "input"),
        ("reranking", Embed(1, ["a"]), "model"),
        ("embedding", Generate(1, TextPrompt("a"), [Sampling(1)], []), "model"),
        ("reranking", Generate(1, TextPrompt("a"), [Sampling(1)], []), "model"),
    ],
)
def test_what_the_model_cannot_answer_is_refused(purpose: str, ask: Ask, param: str) -> None:
    """By the name of the field at fault."""
    with pytest.raises(InvalidRequest) as caught:
        served(purpose).accept(ask)
    assert param == caught.value.param


def test_all_the_width_is_allowed() -> None:
    """As many numbers as there are."""
    _, job = served(width=8).accept(Embed(1, ["a"], dimensions=8))
    assert 8 == job.dimensions


def test_there_is_no_prompt_to_look_at() -> None:
    """Such models have no template."""
    with pytest.raises(InvalidRequest):
        served().inspect(Inspect(1, TextPrompt("a")))
