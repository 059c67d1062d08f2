"""Requests to rerank and to score, in the spellings of Jina, Cohere and vLLM."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, RequestError, UnsupportedFeature
from lmx.protocol.messages import Score
from lmx.schema.ranking import (
    RerankRequest,
    ScoreRequest,
    parse_rerank_request,
    parse_score_request,
    rerank_to_score,
    score_param,
    score_to_score,
    shown_document,
    top_count,
)
from lmx.schema.vectors import MAX_INPUTS
from tests.json_schema import has_whole_float, is_described
from tests.strategies import json_values

ENABLED = {"mode": "enabled", "threshold": 0.1}


def rerank_request(**fields: Any) -> RerankRequest:
    """A parsed request with these fields on top of the least there can be."""
    body = {"query": "q", "documents": ["a", "b"], **fields}
    return parse_rerank_request(json.dumps(body).encode())


def rerank(**fields: Any) -> Score:
    """What the worker is asked."""
    return rerank_to_score(rerank_request(**fields))


def score_request(**fields: Any) -> ScoreRequest:
    """A parsed request with these fields."""
    return parse_score_request(json.dumps(fields).encode())


def score(**fields: Any) -> Score:
    """What the worker is asked."""
    return score_to_score(score_request(**fields))


def refusal(ask: Callable[..., Any], **fields: Any) -> RequestError:
    """Why a body with these fields is refused."""
    with pytest.raises(RequestError) as raised:
        ask(**fields)
    return raised.value


def test_the_query_is_paired_with_each_document() -> None:
    """In order, and cut where it is too long."""
    assert Score(0, [("q", "a"), ("q", "b")], truncate=True) == rerank()


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"documents": [{"text": "x"}, "y"]}, ["x", "y"]),
        ({"documents": [{"text": "x", "id": 7, "tags": [None]}]}, ["x"]),
        ({"documents": [""]}, [""]),
        ({"documents": ["ü 🙂"] * MAX_INPUTS}, ["ü 🙂"] * MAX_INPUTS),
        ({"documents": [{"title": "t", "text": "x"}], "rank_fields": ["title", "text"]}, ["t\nx"]),
        ({"documents": [{"title": "t", "text": "x"}], "rank_fields": ["text", "title"]}, ["x\nt"]),
        ({"documents": [{"title": "t"}, "s"], "rank_fields": ["title", "text"]}, ["t", "s"]),
        ({"documents": [{"text": None, "body": "b"}], "rank_fields": ["body"]}, ["b"]),
    ],
)
def test_what_is_read_of_a_document(fields: dict[str, Any], texts: list[str]) -> None:
    """A string, its text, or the fields to rank by, in their order."""
    assert texts == [document for _, document in rerank(**fields).pairs]


@pytest.mark.parametrize(
    ("fields", "truncate"),
    [
        ({}, True),
        ({"truncate": None, "truncation": None}, True),
        ({"truncate": False}, False),
        ({"truncation": False}, False),
        ({"truncation": True, "truncate": True}, True),
        ({"truncation": False, "truncate": False}, False),
    ],
)
def test_documents_are_cut_unless_told_otherwise(fields: dict[str, Any], *, truncate: bool) -> None:
    """Under either name."""
    assert truncate is rerank(**fields).truncate


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 2),
        ({"top_n": 1}, 1),
        ({"top_k": 1}, 1),
        ({"top_n": 99}, 99),
        ({"top_n": 2, "top_k": 2}, 2),
    ],
)
def test_how_many_results_are_wanted(fields: dict[str, Any], count: int) -> None:
    """All, or as many as asked for under either name."""
    assert count == top_count(rerank_request(**fields))


@pytest.mark.parametrize(
    ("document", "fields", "shown"),
    [
        ("x", {}, {"text": "x"}),
        ({"text": "x", "id": 7}, {}, {"text": "x", "id": 7}),
        ({"title": "t", "id": 7}, {"rank_fields": ["title"]}, {"title": "t", "id": 7, "text": "t"}),
        ({"title": "t", "text": None}, {"rank_fields": ["title"]}, {"title": "t", "text": "t"}),
        ({"title": "t", "text": "x"}, {"rank_fields": ["title"]}, {"title": "t", "text": "x"}),
    ],
)
def test_documents_come_back(document: Any, fields: dict[str, Any], shown: dict[str, Any]) -> None:
    """With the client's own keys, and always with a text."""
    request = rerank_request(documents=[document], **fields)
    assert shown == shown_document(request, rerank_to_score(request), 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_chunks_per_doc": 1, "max_tokens_per_doc": 0, "priority": 0},
        {"relevant_spans": {"mode": "disabled"}},
        {"max_chunks_per_doc": None, "max_tokens_per_doc": None, "priority": None},
        {"user": "me", "metadata": {"a": 1}, "nobody": None},
    ],
)
def test_what_changes_nothing_is_taken(fields: dict[str, Any]) -> None:
    """Fields at their neutral values, nulls, and who asks."""
    assert rerank() == rerank(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_chunks_per_doc", 10),
        ("max_tokens_per_doc", 4096),
        ("priority", 1),
        ("priority", False),
        ("relevant_spans", ENABLED),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(name: str, value: Any) -> None:
    """Documented by Cohere, and without effect here."""
    error = refusal(rerank, **{name: value})
    assert (UnsupportedFeature, name) == (type(error), error.param)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("query", {"query": ""}),
        ("query", {"query": None}),
        ("query", {"query": ["a"]}),
        ("documents", {"documents": []}),
        ("documents", {"documents": None}),
        ("documents", {"documents": "a"}),
        ("documents", {"documents": ["x"] * (MAX_INPUTS + 1)}),
        ("documents.1", {"documents": ["a", 5]}),
        ("documents.1", {"documents": ["a", None]}),
        ("documents.1.text", {"documents": ["a", {}]}),
        ("documents.0.text", {"documents": [{"text": None}]}),
        ("documents.0.text", {"documents": [{"text": 5}]}),
        ("documents.0.text", {"documents": [{"text": 5, "title": "t"}], "rank_fields": ["title"]}),
        ("documents.0.title", {"documents": [{"title": ["t"]}], "rank_fields": ["title"]}),
        ("documents.0.title", {"documents": [{"text": "x"}], "rank_fields": ["title"]}),
        ("rank_fields", {"rank_fields": []}),
        ("rank_fields.0", {"rank_fields": [""]}),
        ("top_n", {"top_n": 0}),
        ("top_n", {"top_n": "2"}),
        ("top_k", {"top_k": 0}),
        ("top_k", {"top_k": 1, "top_n": 2}),
        ("truncation", {"truncation": True, "truncate": False}),
        ("return_documents", {"return_documents": 1}),
        ("instruct", {"instruct": "x"}),
    ],
)
def test_what_is_wrong_with_a_ranking_is_named(param: str, fields: dict[str, Any]) -> None:
    """Wrong types, nothing at all, too many, contradictions and unknown fields."""
    error = refusal(rerank, **fields)
    assert (InvalidRequest, param) == (type(error), error.param)


ONE_WITH_MANY = [("a", "x"), ("a", "y")]
PAIRWISE = [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("fields", "pairs"),
    [
        ({"text_1": "a", "text_2": "x"}, [("a", "x")]),
        ({"text_1": "a", "text_2": ["x", "y"]}, ONE_WITH_MANY),
        ({"text_1": ["a"], "text_2": ["x", "y"]}, ONE_WITH_MANY),
        ({"text_1": ["a", "b"], "text_2": ["x", "y"]}, PAIRWISE),
        ({"queries": ["a", "b"], "documents": ["x", "y"]}, PAIRWISE),
        ({"queries": "a", "documents": ["x", "y"]}, ONE_WITH_MANY),
        ({"query": "a", "documents": ["x", "y"]}, ONE_WITH_MANY),
        ({"queries": "a", "items": ["x", "y"]}, ONE_WITH_MANY),
        ({"data_1": "a", "data_2": ["x", "y"], "text_1": None}, ONE_WITH_MANY),
        ({"text_1": "a", "text_2": ""}, [("a", "")]),
        ({"text_1": "a", "text_2": ["x"] * MAX_INPUTS}, [("a", "x")] * MAX_INPUTS),
    ],
)
def test_two_sides_make_pairs(fields: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    """One with each, or one by one, whatever the sides are called; nothing is cut."""
    assert Score(0, pairs, truncate=False) == score(**fields)


def test_pairs_may_be_cut() -> None:
    """If the request says so."""
    assert score(text_1="a", text_2="x", truncate=True).truncate


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("text_1", {}),
        ("text_2", {"text_1": "a"}),
        ("text_1", {"text_2": "a"}),
        ("documents", {"queries": "a"}),
        ("queries", {"documents": "a"}),
        ("items", {"text_1": "a", "text_2": "x", "items": "y"}),
        ("query", {"queries": "a", "query": "a", "documents": "x"}),
        ("text_2", {"text_1": "a", "text_2": []}),
        ("text_1", {"text_1": [], "text_2": "x"}),
        ("text_1", {"text_1": "", "text_2": "x"}),
        ("text_1.1", {"text_1": ["a", ""], "text_2": ["x", "y"]}),
        ("text_2", {"text_1": ["a", "b"], "text_2": ["x", "y", "z"]}),
        ("text_2", {"text_1": ["a", "b"], "text_2": "x"}),
        ("text_2", {"text_1": "a", "text_2": ["x"] * (MAX_INPUTS + 1)}),
        ("text_2.0", {"text_1": "a", "text_2": [{"text": "x"}]}),
        ("top_n", {"text_1": "a", "text_2": "x", "top_n": 1}),
    ],
)
def test_what_is_wrong_with_pairs_is_named(param: str, fields: dict[str, Any]) -> None:
    """A side that is missing, empty, too long, twice there or not as long as the other."""
    error = refusal(score, **fields)
    assert (InvalidRequest, param) == (type(error), error.param)


@pytest.mark.parametrize(
    ("fields", "param", "expected"),
    [
        ({"text_1": "a", "text_2": ["x", "y"]}, "documents.1", "text_2.1"),
        ({"text_1": "a", "text_2": "x"}, "documents.0", "text_2"),
        ({"queries": ["a", "b"], "documents": ["x", "y"]}, "documents.1", "documents.1"),
        ({"queries": ["a", "b"], "items": ["x", "y"]}, "documents.0", "items.0"),
        ({"queries": ["a", "b"], "items": ["x", "y"]}, "query", "queries"),
        ({"text_1": "a", "text_2": "x"}, "query", "text_1"),
        ({"text_1": "a", "text_2": "x"}, "model", "model"),
    ],
)
def test_errors_name_the_side(fields: dict[str, Any], param: str, expected: str) -> None:
    """As the client calls it, while the worker knows a query and documents."""
    assert expected == score_param(score_request(**fields), param)


EDGES = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2,
            "",
            "x",
            [],
            [""],
            ["x"],
            [1],
            {},
            {"text": "x"},
            [{"text": "x"}],
            [{"text": 1}],
        ]
    ),
    st.sampled_from(
        [
            [{"text": None}],
            [{}],
            {"mode": "disabled"},
            ENABLED,
            True,
            False,
            ["x"] * (MAX_INPUTS + 1),
        ]
    ),
)


def is_taken(ask: Callable[..., Any], body: dict[str, Any]) -> bool:
    """Whether a body is taken."""
    try:
        ask(**body)
    except RequestError:
        return False
    return True


@given(st.sampled_from(sorted(RerankRequest.__struct_fields__)), EDGES | json_values(3))
def test_a_ranking_is_taken_iff_it_is_as_described(name: str, value: Any) -> None:
    """The description and the parser agree, but for objects without what is to be read of them."""
    body = {"query": "a", "documents": ["x"], name: value}
    is_parsed = is_taken(rerank, body)
    if not has_whole_float(body) and (is_parsed or name != "documents"):
        assert is_parsed is is_described("RerankRequest", body)


@given(st.sampled_from(["text_1", "text_2", "model", "truncate", "user"]), EDGES | json_values(3))
def test_pairs_are_taken_iff_they_are_as_described(name: str, value: Any) -> None:
    """The description and the parser agree, but for sides of different lengths or none."""
    body = {"text_1": "a", "text_2": "x", name: value}
    is_parsed = is_taken(score, body)
    has_sides = name != "text_1" and body["text_2"] is not None
    if not has_whole_float(body) and (is_parsed or has_sides):
        assert is_parsed is is_described("ScoreRequest", body)
