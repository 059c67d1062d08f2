"""Embeddings, reranking and scores over the wire, from workers with the fake engine."""

import base64
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.daemon_process import Daemon, open_daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, encode_request, wait_until

EMBEDDINGS, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/v1/score"
WIDTH, CONTEXT = 8, 64
EMBEDDER = f"fake:emb?purpose=embedding&width={WIDTH}&context={CONTEXT}"
RERANKER = f"fake:rank?purpose=reranking&context={CONTEXT}"
CONFIGURED = {
    "LMX_MODELS__EMBEDDING_MODEL": EMBEDDER,
    "LMX_MODELS__RERANK_MODEL": RERANKER,
}
# The fake vocabulary: one token that begins a text, then its bytes.
BEGIN = 1
TOO_LONG = "x" * CONTEXT
FITS = "x" * (CONTEXT - 1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a chat model, an embedding model and a reranking model."""
    home = tmp_path_factory.mktemp("home")
    slow = "fake:slow?purpose=embedding&step_ms=200&batch=1"
    models = ("fake:x?tokens=2", EMBEDDER, RERANKER, slow)
    with shared_daemon(home, *models, settings=CONFIGURED) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with an embedding model alone, which is loaded when it is needed."""
    home = tmp_path_factory.mktemp("bare")
    settings = {"LMX_MODELS__EMBEDDING_MODEL": EMBEDDER}
    with shared_daemon(home, "fake:x?tokens=2", settings=settings) as shared:
        yield shared


def answer(daemon: Daemon, path: str, **fields: Any) -> Any:
    """A good answer, decoded."""
    reply = post(daemon, path, **fields)
    assert 200 == reply.status, reply.body
    return reply.json()


def vectors(daemon: Daemon, **fields: Any) -> list[list[float]]:
    """The vectors, in order of the inputs."""
    data = answer(daemon, EMBEDDINGS, **fields)["data"]
    assert list(range(len(data))) == [row["index"] for row in data]
    return [row["embedding"] for row in data]


def refused(reply: Reply) -> tuple[int, str, str]:
    """Status, code and field of a refusal."""
    error = reply.json()["error"]
    return reply.status, error["code"], error["param"]


def ids(text: str) -> list[int]:
    """A text's tokens."""
    return [BEGIN, *text.encode()]


def test_a_text_has_a_vector(daemon: Daemon) -> None:
    """Of the model's width and of length 1, with the tokens that were read."""
    reply = answer(daemon, EMBEDDINGS, model="emb", input="hello")
    assert ("list", "emb") == (reply["object"], reply["model"])
    (row,) = reply["data"]
    assert ("embedding", 0, WIDTH) == (row["object"], row["index"], len(row["embedding"]))
    assert math.isclose(1.0, math.hypot(*row["embedding"]), rel_tol=1e-6)
    assert {"prompt_tokens": 6, "total_tokens": 6} == reply["usage"]


def test_every_form_of_input_means_the_same(daemon: Daemon) -> None:
    """Texts and their token ids, alone and in lists."""
    hello, bye = vectors(daemon, input=["hello", "bye"])
    assert hello != bye
    assert [hello] == vectors(daemon, input="hello")
    assert [hello] == vectors(daemon, input=ids("hello"))
    assert [hello, bye] == vectors(daemon, input=[ids("hello"), ids("bye")])


def test_unicode_is_read_as_it_is(daemon: Daemon) -> None:
    """Whatever the plane, and a text of a blank, too."""
    texts = ["é", "日本語", "🙂", " ", "\u0003", "e\u0301"]
    alone = [vectors(daemon, input=text)[0] for text in texts]
    assert alone == vectors(daemon, input=texts)
    assert len(texts) == len({tuple(vector) for vector in alone})


def test_base64_holds_the_same_numbers(daemon: Daemon) -> None:
    """Little-endian float32."""
    spelled = vectors(daemon, input=["hello", "bye"])
    packed: list[Any] = vectors(daemon, input=["hello", "bye"], encoding_format="base64")
    read = [list(struct.unpack(f"<{WIDTH}f", base64.b64decode(text))) for text in packed]
    assert spelled == read


def test_dimensions_are_cut_and_normalised(daemon: Daemon) -> None:
    """The leading numbers, of length 1 again."""
    whole, cut = vectors(daemon, input="hello")[0], vectors(daemon, input="hello", dimensions=5)[0]
    length = math.hypot(*whole[:5])
    assert [number / length for number in whole[:5]] == pytest.approx(cut, abs=1e-6)
    (kept,) = vectors(daemon, input="hello", dimensions=WIDTH)
    assert whole == pytest.approx(kept, abs=1e-6)


def test_more_dimensions_than_there_are(daemon: Daemon) -> None:
    """A 400 that names the field and the model's width."""
    reply = post(daemon, EMBEDDINGS, input="hello", dimensions=WIDTH + 1)
    assert (400, "invalid-request", "dimensions") == refused(reply)
    assert str(WIDTH) in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (TOO_LONG, "input"),
        ([TOO_LONG], "input.0"),
        (["a", "b", TOO_LONG, "c"], "input.2"),
        (ids(TOO_LONG), "input"),
        ([ids("a"), ids(TOO_LONG)], "input.1"),
    ],
)
def test_an_input_that_is_too_long_is_named(daemon: Daemon, given: Any, param: str) -> None:
    """By its place, with both numbers of tokens."""
    reply = post(daemon, EMBEDDINGS, input=given)
    assert (400, "context_length_exceeded", param) == refused(reply)
    message = reply.json()["error"]["message"]
    assert str(CONTEXT) in message
    assert str(CONTEXT + 1) in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [(TOO_LONG + "yz", FITS), (ids(TOO_LONG + "yz"), FITS), (["a", TOO_LONG], ["a", FITS])],
)
def test_truncation_cuts_at_the_end(daemon: Daemon, given: Any, expected: Any) -> None:
    """What fits is read, and only that is counted."""
    cut = answer(daemon, EMBEDDINGS, input=given, truncate=True)
    assert answer(daemon, EMBEDDINGS, input=expected) == cut


def test_as_many_inputs_as_openai_takes(daemon: Daemon) -> None:
    """2,048 in their order; one more is refused."""
    texts = [f"text {number}" for number in range(2048)]
    many = vectors(daemon, input=texts)
    assert 2048 == len(many)
    for index in (0, 1, 1023, 2047):
        assert vectors(daemon, input=texts[index]) == [many[index]]
    reply = post(daemon, EMBEDDINGS, input=[*texts, "one more"])
    assert (400, "invalid-request", "input") == refused(reply)


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        (EMBEDDINGS, "input", {}),
        (EMBEDDINGS, "input", {"input": ""}),
        (EMBEDDINGS, "input", {"input": []}),
        (EMBEDDINGS, "input.1", {"input": ["a", ""]}),
        (EMBEDDINGS, "input.1", {"input": [[1], []]}),
        (EMBEDDINGS, "input", {"input": {"a": 1}}),
        (EMBEDDINGS, "input", {"input": [99999]}),
        (EMBEDDINGS, "encoding_format", {"input": "a", "encoding_format": "binary"}),
        (EMBEDDINGS, "prompt", {"input": "a", "prompt": "b"}),
        (RERANK, "query", {"documents": ["a"]}),
        (RERANK, "query", {"query": "", "documents": ["a"]}),
        (RERANK, "documents", {"query": "a", "documents": []}),
        (RERANK, "documents.1.text", {"query": "a", "documents": ["b", {"title": "c"}]}),
        (RERANK, "top_n", {"query": "a", "documents": ["b"], "top_n": 0}),
        (RERANK, "documents", {"query": "a", "documents": ["b"] * 2049}),
        ("/v2/rerank", "passages", {"query": "a", "documents": ["b"], "passages": []}),
        ("/rerank", "max_tokens_per_doc", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9}),
        (RERANK, "documents.1", {"query": "a", "documents": ["b", TOO_LONG], "truncate": False}),
        (SCORE, "text_2", {"text_1": "a"}),
        (SCORE, "text_2", {"text_1": ["a", "b"], "text_2": ["c"]}),
        (SCORE, "text_2.1", {"text_1": "a", "text_2": ["c", TOO_LONG]}),
        (SCORE, "text_2", {"text_1": "a", "text_2": TOO_LONG}),
    ],
)  # fmt: skip
def test_refusals(daemon: Daemon, path: str, param: str, fields: dict[str, Any]) -> None:
    """What cannot be answered is a 400 that names the field as the client spelled it."""
    reply = post(daemon, path, **fields)
    assert (400, param) == (reply.status, reply.json()["error"]["param"]), reply.body


@pytest.mark.parametrize("name", ["", None, "auto", "x", "text-embedding-ada-002", "nobody/knows"])
def test_any_name_finds_an_embedding_model(daemon: Daemon, name: str | None) -> None:
    """None, a chat model's and an unknown one mean the one that is configured."""
    assert "emb" == answer(daemon, EMBEDDINGS, model=name, input="a")["model"]
    assert "rank" == answer(daemon, RERANK, model=name, query="a", documents=["a"])["model"]


def test_a_name_chooses(daemon: Daemon) -> None:
    """Another embedding model than the configured one."""
    assert "slow" == answer(daemon, EMBEDDINGS, model="slow", input="a")["model"]


@pytest.mark.parametrize("name", ["emb", "rank"])
def test_models_of_numbers_do_not_chat(daemon: Daemon, name: str) -> None:
    """A chat that names one is refused, and says why."""
    reply = chat(daemon, name)
    assert (400, "model") == (reply.status, reply.json()["error"]["param"]), reply.body


DOCUMENTS = ["red fox", {"text": "quick red fox", "id": 7}, "snail", "fox"]


@pytest.mark.parametrize("path", [RERANK, "/rerank"])
def test_documents_are_ranked(daemon: Daemon, path: str) -> None:
    """Best first, ties in their order, with all that clients of Jina's kind and the CLI read."""
    reply = answer(daemon, path, query="quick fox", documents=DOCUMENTS)
    assert [
        {"index": 1, "relevance_score": 1.0, "document": {"text": "quick red fox", "id": 7}},
        {"index": 0, "relevance_score": 0.5, "document": {"text": "red fox"}},
        {"index": 3, "relevance_score": 0.5, "document": {"text": "fox"}},
        {"index": 2, "relevance_score": 0.0, "document": {"text": "snail"}},
    ] == reply["results"]
    tokens = sum(len(f" quick fox {text}") for text in ("red fox", "quick red fox", "snail", "fox"))
    assert ("rank", tokens) == (reply["model"], reply["usage"]["total_tokens"])
    assert "cross-encoder" == reply["meta"]["method"]


@pytest.mark.parametrize(
    ("fields", "indices"),
    [({"top_n": 2}, [1, 0]), ({"top_k": 1}, [1]), ({"top_n": 99}, [1, 0, 3, 2])],
)
def test_only_the_best(daemon: Daemon, fields: dict[str, Any], indices: list[int]) -> None:
    """As many as asked for, and all if that is more than there are."""
    reply = answer(daemon, RERANK, query="quick fox", documents=DOCUMENTS, **fields)
    assert indices == [result["index"] for result in reply["results"]]


def test_documents_may_stay_away(daemon: Daemon) -> None:
    """Index and score are enough for who has them."""
    reply = answer(daemon, RERANK, query="fox", documents=["fox"], return_documents=False)
    assert [{"index": 0, "relevance_score": 1.0}] == reply["results"]


def test_unicode_is_ranked_and_comes_back(daemon: Daemon) -> None:
    """As it was sent."""
    documents = ["nichts", "schöne 🦊 日本語", ""]
    reply = answer(daemon, RERANK, query="🦊 日本語", documents=documents)
    assert [(1, documents[1]), (0, documents[0]), (2, "")] == [
        (result["index"], result["document"]["text"]) for result in reply["results"]
    ]


def test_long_documents_are_cut(daemon: Daemon) -> None:
    """The query and the beginning of the document are read, and only they are counted."""
    documents = ["fox " + "x" * 500, "x" * 500 + " fox"]
    reply = answer(daemon, RERANK, query="fox", documents=documents)
    assert [(0, 1.0), (1, 0.0)] == [
        (result["index"], result["relevance_score"]) for result in reply["results"]
    ]
    assert 2 * CONTEXT == reply["usage"]["prompt_tokens"]


def test_as_many_documents_as_there_may_be(daemon: Daemon) -> None:
    """2,048, of which the one that fits is found."""
    documents = [f"nothing {number}" for number in range(2047)] + ["a fox"]
    reply = answer(daemon, RERANK, query="fox", documents=documents, top_n=1)
    assert [2047] == [result["index"] for result in reply["results"]]
    assert 21 == reply["meta"]["billed_units"]["search_units"]


@pytest.mark.parametrize(
    ("fields", "scores"),
    [
        ({"text_1": "fox", "text_2": "a fox"}, [1.0]),
        ({"text_1": "fox", "text_2": ["snail", "a fox"]}, [0.0, 1.0]),
        ({"queries": ["red fox", "snail"], "documents": ["fox", "snail"]}, [0.5, 1.0]),
    ],
)
def test_pairs_are_scored(daemon: Daemon, fields: dict[str, Any], scores: list[float]) -> None:
    """In their order and in vLLM's shape."""
    reply = post(daemon, SCORE, **fields)
    assert "cross-encoder" == reply.headers["x-lmx-rerank"]
    body = reply.json()
    assert ("list", "rank") == (body["object"], body["model"])
    assert [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ] == body["data"]
    assert abs(time.time() - body["created"]) < 60


@pytest.mark.parametrize("path", [RERANK, "/rerank", "/v2/rerank"])
def test_without_a_reranker_vectors_are_compared(bare: Daemon, path: str) -> None:
    """And the answer says so, in its meta and in a header."""
    documents = ["zzzz", "a fox", "fox"]
    reply = post(bare, path, query="fox", documents=documents, model="nobody")
    assert (200, "embedding-cosine") == (reply.status, reply.headers["x-lmx-rerank"])
    body = reply.json()
    assert "embedding-cosine" == body["meta"]["method"]
    assert [2, 1, 0] == [result["index"] for result in body["results"]]
    fox, other = vectors(bare, input=["fox", "zzzz"])
    cosine = sum(one * two for one, two in zip(fox, other, strict=True))
    expected = pytest.approx([1.0, cosine], abs=1e-6)
    scores = [result["relevance_score"] for result in body["results"]]
    assert expected == [scores[0], scores[2]]
    assert max(scores) <= 1.0


def test_a_named_embedding_model_compares(daemon: Daemon) -> None:
    """Also where there is a reranking model."""
    reply = answer(daemon, RERANK, model="emb", query="fox", documents=["fox"])
    assert ("emb", "embedding-cosine") == (reply["model"], reply["meta"]["method"])


def test_who_hangs_up_is_not_computed_for(daemon: Daemon) -> None:
    """The request is over at once, long before its inputs are, and counted as cancelled."""
    body = json.dumps({"model": "slow", "input": ["a"] * 100}).encode()
    with Connection(daemon) as connection:
        connection.send(encode_request("POST", EMBEDDINGS, body))
        assert wait_until(lambda: running(daemon) == ["slow"])
    assert wait_until(lambda: running(daemon) == [])
    assert "slow" == answer(daemon, EMBEDDINGS, model="slow", input="b")["model"]
    assert "cancelled" in [event["reason"] for event in daemon.events("request ended")]


def running(daemon: Daemon) -> list[str]:
    """The models of the requests under way."""
    return [row["model"] for row in daemon.get_json("/admin/requests")[1]["requests"]]


async def test_nothing_to_embed_with(tmp_path: Path) -> None:
    """Where nothing may be loaded on demand, a request is told so, and not to try again."""
    settings = {"LMX_MODELS__ON_DEMAND": "false"}
    with trio.fail_after(30):
        async with open_daemon(tmp_path, "fake:x", settings=settings) as daemon:
            await daemon.wait_ready()
            for path, fields in (
                (EMBEDDINGS, {"input": "a"}),
                (RERANK, {"query": "a", "documents": ["b"]}),
                (SCORE, {"text_1": "a", "text_2": "b"}),
            ):
                reply = await trio.to_thread.run_sync(lambda: post(daemon, path, **fields))  # noqa: B023
                assert (503, "no-model-loaded") == (reply.status, reply.json()["code"])
                assert "false" == reply.headers["x-should-retry"]
