"""Answers that are numbers: exact, in the shapes that clients read, and as described."""

import base64
import json
import struct
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.schema.vector_reply import (
    PIECE_BYTES,
    RankedResult,
    VectorHead,
    encode_cohere_ranking,
    encode_embeddings,
    encode_ranking,
    encode_scores,
    rank,
    rank_meta,
    read_floats,
)
from tests.json_schema import is_described

# A model's name may hold what the answer is put together around.
HEAD = VectorHead("id-1", 1700000000, 'm "data":[] "results":[] ü', 12)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def pack(*numbers: float) -> bytes:
    """Little-endian float32."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def whole(pieces: list[bytes]) -> Any:
    """A decoded answer."""
    return json.loads(b"".join(pieces))


def embeddings(
    values: bytes, width: int, encoding_format: Literal["float", "base64"] = "float"
) -> dict[str, Any]:
    """The decoded answer."""
    pieces = encode_embeddings(HEAD, values, width=width, encoding_format=encoding_format)
    answer: dict[str, Any] = whole(pieces)
    assert is_described("EmbeddingList", answer)
    return answer


def test_embeddings_have_openais_shape() -> None:
    """Each input's vector with its index, who made it, and what it cost."""
    assert {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, -0.5]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 0.0]},
        ],
        "model": HEAD.model,
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    } == embeddings(pack(1, -0.5, 0.25, 0), 2)


def test_one_number_of_one_input() -> None:
    """The first row is the last one, too."""
    assert [{"object": "embedding", "index": 0, "embedding": [0.5]}] == embeddings(pack(0.5), 1)[
        "data"
    ]


@given(st.integers(1, 5).flatmap(lambda width: st.lists(
    st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=5
)))  # fmt: skip
def test_both_formats_hold_the_same_numbers(rows: list[list[float]]) -> None:
    """To the last bit of each float32."""
    values, width = b"".join(pack(*row) for row in rows), len(rows[0])
    spelled = [row["embedding"] for row in embeddings(values, width)["data"]]
    packed = [row["embedding"] for row in embeddings(values, width, "base64")["data"]]
    assert values == b"".join(pack(*row) for row in spelled)
    assert values == b"".join(map(base64.b64decode, packed))
    assert len(rows) == len(spelled) == len(packed)


def test_large_answers_come_in_pieces() -> None:
    """Each small enough for one copy of it to be felt by nobody, and together the whole."""
    values = pack(*range(1, 40_001))
    pieces = encode_embeddings(HEAD, values, width=100, encoding_format="float")
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 2 * PIECE_BYTES
    rows = whole(pieces)["data"]
    assert list(range(400)) == [row["index"] for row in rows]
    assert [float(number) for number in range(1, 40_001)] == [
        number for row in rows for number in row["embedding"]
    ]


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_numbers_are_read_on_every_machine(byteorder: Literal["little", "big"]) -> None:
    """What this machine reads wrongly without turning is right for one of the other kind."""
    numbers = [1.0, -2.5, 3e-30]
    sign = "<" if byteorder == "little" else ">"
    read = read_floats(struct.pack(f"{sign}3f", *numbers), byteorder=byteorder)
    assert list(struct.unpack("<3f", pack(*numbers))) == read


@pytest.mark.parametrize(
    ("scores", "top", "ranked"),
    [
        ([0.1, 0.9, 0.5], 3, [(1, 0.9), (2, 0.5), (0, 0.1)]),
        ([0.1, 0.9, 0.5], 2, [(1, 0.9), (2, 0.5)]),
        ([0.1, 0.9], 99, [(1, 0.9), (0, 0.1)]),
        ([0.5, 0.7, 0.5, 0.7, 0.5], 4, [(1, 0.7), (3, 0.7), (0, 0.5), (2, 0.5)]),
        ([-0.3, -0.1, 1.0000001], 3, [(2, 1.0), (1, 0.0), (0, 0.0)]),
        ([0.0], 1, [(0, 0.0)]),
    ],
)
def test_the_best_come_first(
    scores: list[float], top: int, ranked: list[tuple[int, float]]
) -> None:
    """Ties by their place; below 0 the order still counts, and nothing leaves 0 to 1."""
    assert ranked == rank(scores, top=top)


RESULTS = [
    RankedResult(index=1, relevance_score=0.75, document={"text": "ü 🙂", "id": [1]}),
    RankedResult(index=0, relevance_score=0.5),
]
SHOWN = [
    {"index": 1, "relevance_score": 0.75, "document": {"text": "ü 🙂", "id": [1]}},
    {"index": 0, "relevance_score": 0.5},
]


def described_meta(version: str, method: str) -> dict[str, Any]:
    """What stands beside results of 101 documents."""
    return {
        "method": method,
        "api_version": {"version": version},
        "billed_units": {"search_units": 2},
        "tokens": {"input_tokens": 12, "output_tokens": 0},
    }


def test_a_ranking_has_what_jinas_clients_and_the_cli_read() -> None:
    """Results, model and usage; how it came about stands in the meta."""
    meta = rank_meta("embedding-cosine", version="1", document_count=101, tokens=12)
    answer = whole(encode_ranking(HEAD, RESULTS, meta))
    assert {
        "id": "id-1",
        "object": "list",
        "model": HEAD.model,
        "results": SHOWN,
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "meta": described_meta("1", "embedding-cosine"),
    } == answer
    assert is_described("RerankReply", answer)


def test_a_ranking_has_what_coheres_clients_read() -> None:
    """An id, the results and the meta."""
    meta = rank_meta("cross-encoder", version="2", document_count=101, tokens=12)
    answer = whole(encode_cohere_ranking(HEAD, RESULTS, meta))
    assert {
        "id": "id-1",
        "results": SHOWN,
        "meta": described_meta("2", "cross-encoder"),
    } == answer
    assert is_described("CohereRerankReply", answer)


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (2048, 21)])
def test_search_units_are_hundreds_of_documents(documents: int, units: int) -> None:
    """Begun ones count."""
    meta = rank_meta("cross-encoder", version="2", document_count=documents, tokens=1)
    assert units == meta.billed_units.search_units


def test_scores_have_vllms_shape() -> None:
    """In the order of the pairs, and as they are."""
    answer = whole(encode_scores(HEAD, [0.5, -0.25]))
    assert {
        "id": "id-1",
        "object": "list",
        "created": 1700000000,
        "model": HEAD.model,
        "data": [
            {"index": 0, "object": "score", "score": 0.5},
            {"index": 1, "object": "score", "score": -0.25},
        ],
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    } == answer
    assert is_described("ScoreList", answer)
