"""The routes of vectors and scores over a desk that does as it is told, without a daemon."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.config import Settings
from lmx.daemon.origin import Origin
from lmx.daemon.vectors import Method, Numbers
from lmx.errors import ContextTooLong, LmxError, QueueFull
from lmx.protocol.messages import Embed, Score
from lmx.web.exchange import Exchange
from lmx.web.vectors import ENCODE_IN_THREAD_BYTES, VectorRoutes

FOREVER = float("inf")


class ScriptedDesk:
    """Gives these numbers for each input or pair, or this error, after so long.

    Attributes:
        heard: What was asked, by which name and from where.
        cancelled: How many asks were given up.
    """

    def __init__(
        self,
        numbers: list[list[float]],
        *,
        method: Method = "embedding",
        error: LmxError | None = None,
        after_s: float = 0,
    ) -> None:
        self.heard: list[tuple[Embed | Score, str, str]] = []
        self.cancelled = 0
        self._numbers = numbers
        self._method = method
        self._error = error
        self._after_s = after_s

    async def embed(self, ask: Embed, *, model_name: str, origin: Origin) -> Numbers:
        return await self._answer(ask, model_name, origin)

    async def score(self, ask: Score, *, model_name: str, origin: Origin) -> Numbers:
        return await self._answer(ask, model_name, origin)

    async def _answer(self, ask: Embed | Score, model_name: str, origin: Origin) -> Numbers:
        self.heard.append((ask, model_name, origin.route))
        try:
            await trio.sleep(self._after_s)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self._error is not None:
            raise self._error
        rows, width = self._numbers, len(self._numbers[0])
        values = b"".join(struct.pack(f"<{width}f", *row) for row in rows)
        return Numbers("real", self._method, len(rows), width, values, 7)


def make_exchange(path: str, body: bytes) -> Exchange:
    """A request that has arrived whole."""

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        raise AssertionError("the body is there already")

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise AssertionError(f"a handler returns its answer and sends no {message}")

    scope = {"type": "http", "path": path, "headers": [], "state": {}, "extensions": {}}
    exchange = Exchange(scope, receive, send)
    exchange.body.begin(len(body))
    exchange.body.take(body, is_last=True)
    return exchange


async def ask(desk: ScriptedDesk, path: str, **fields: Any) -> tuple[Any, dict[bytes, bytes]]:
    """The decoded answer and its headers."""
    routes = VectorRoutes(desk, Settings(home=Path("/nowhere")))
    route = {
        "/v1/embeddings": routes.embed,
        "/v1/rerank": routes.rerank,
        "/rerank": routes.rerank,
        "/v2/rerank": routes.rerank_v2,
        "/v1/score": routes.score,
    }[path]
    answer = await route(make_exchange(path, json.dumps(fields).encode()))
    assert isinstance(answer.body, list)
    return json.loads(b"".join(answer.body)), dict(answer.headers)


async def test_the_desk_is_asked_as_the_client_says(autojump_clock: object) -> None:
    """With the model's name, empty for none, and the path it came by."""
    desk = ScriptedDesk([[1.0]])
    await ask(desk, "/v1/embeddings", input=["a"], model="gpt-4", truncate=True)
    await ask(desk, "/v1/embeddings", input=[5, 6], dimensions=1)
    await ask(desk, "/rerank", query="q", documents=["a"])
    assert [
        (Embed(0, ["a"], truncate=True), "gpt-4", "/v1/embeddings"),
        (Embed(0, [[5, 6]], dimensions=1), "", "/v1/embeddings"),
        (Score(0, [("q", "a")]), "", "/rerank"),
    ] == desk.heard


async def test_the_model_that_answered_is_named(autojump_clock: object) -> None:
    """Not the one that was asked for."""
    answer, headers = await ask(
        ScriptedDesk([[0.5, 0.5]]), "/v1/embeddings", input="a", model="gpt-4"
    )
    assert ("real", [0.5, 0.5], 7) == (
        answer["model"],
        answer["data"][0]["embedding"],
        answer["usage"]["prompt_tokens"],
    )
    assert b"x-lmx-rerank" not in headers


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
@pytest.mark.parametrize("method", ["cross-encoder", "embedding-cosine"])
async def test_how_a_ranking_came_about_is_marked(
    path: str, method: Method, autojump_clock: object
) -> None:
    """In the meta and in a header."""
    desk = ScriptedDesk([[0.5]], method=method)
    answer, headers = await ask(desk, path, query="q", documents=["a"])
    assert (method, method.encode()) == (answer["meta"]["method"], headers[b"x-lmx-rerank"])


@pytest.mark.parametrize(
    ("path", "wanted", "is_shown"),
    [
        ("/v1/rerank", None, True),
        ("/v1/rerank", True, True),
        ("/v1/rerank", False, False),
        ("/v2/rerank", None, False),
        ("/v2/rerank", True, True),
        ("/v2/rerank", False, False),
    ],
)
async def test_documents_come_back_where_they_are_expected(
    path: str, *, wanted: bool | None, is_shown: bool, autojump_clock: object
) -> None:
    """By default as the CLI reads them, and as version 2 of Cohere's leaves them out."""
    desk = ScriptedDesk([[0.5], [0.75]], method="cross-encoder")
    answer, _ = await ask(
        desk, path, query="q", documents=["a", "b"], return_documents=wanted, top_n=1
    )
    (result,) = answer["results"]
    assert (1, 0.75) == (result["index"], result["relevance_score"])
    assert ({"text": "b"} if is_shown else None) == result.get("document")


async def test_scores_keep_their_order(autojump_clock: object) -> None:
    """They are not sorted, and a cosine stays what it is."""
    desk = ScriptedDesk([[-0.5], [0.25]], method="embedding-cosine")
    answer, headers = await ask(desk, "/v1/score", text_1="a", text_2=["x", "y"])
    assert [-0.5, 0.25] == [row["score"] for row in answer["data"]]
    assert b"embedding-cosine" == headers[b"x-lmx-rerank"]


@pytest.mark.parametrize(
    ("path", "fields", "param", "expected"),
    [
        ("/v1/embeddings", {"input": "a"}, "input.0", "input"),
        ("/v1/embeddings", {"input": ["a", "b"]}, "input.1", "input.1"),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, "documents.0", "documents.0"),
        ("/v1/score", {"text_1": "a", "text_2": ["x", "y"]}, "documents.1", "text_2.1"),
        ("/v1/score", {"queries": "a", "items": "x"}, "query", "queries"),
    ],
)
async def test_what_is_too_long_is_named_as_it_was_sent(
    path: str, fields: dict[str, Any], param: str, expected: str, *, autojump_clock: object
) -> None:
    """And stays the error that it is."""
    desk = ScriptedDesk([], error=ContextTooLong("too long", param=param))
    with pytest.raises(ContextTooLong) as raised:
        await ask(desk, path, **fields)
    assert (expected, "too long") == (raised.value.param, raised.value.message)


async def test_other_errors_pass(autojump_clock: object) -> None:
    """With all they say."""
    desk = ScriptedDesk([], error=QueueFull("full", retry_after_s=3))
    with pytest.raises(QueueFull) as raised:
        await ask(desk, "/v1/embeddings", input="a")
    assert 3 == raised.value.retry_after_s


async def test_large_answers_are_encoded_beside_the_event_loop() -> None:
    """Other tasks run meanwhile, and the answer is the same."""
    width = ENCODE_IN_THREAD_BYTES // 4
    desk = ScriptedDesk([[float(index)] * width for index in range(4)])
    steps, is_done = 0, False

    async def count() -> None:
        nonlocal steps
        while not is_done:
            await trio.lowlevel.checkpoint()
            steps += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        answer, _ = await ask(desk, "/v1/embeddings", input=["x"] * 4)
        is_done = True
    assert [[float(index)] * width for index in range(4)] == [
        row["embedding"] for row in answer["data"]
    ]
    assert steps > 10


async def test_leaving_cancels_the_ask(autojump_clock: object) -> None:
    """The desk is told at once."""
    desk = ScriptedDesk([], after_s=FOREVER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(desk, "/v1/embeddings", input="a"))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert 1 == desk.cancelled
