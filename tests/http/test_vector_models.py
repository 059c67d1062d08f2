"""Which model answers a request for numbers, whatever the client calls it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, wait_until

CHAT = "fake:chat?tokens=2"
EMBEDDER = "fake:emb?purpose=embedding"
OTHER = "fake:other?purpose=embedding&width=3"
RERANKER = "fake:rank?purpose=reranking"


@contextmanager
def serving(home: Path, *models: str, **settings: str) -> Iterator[Daemon]:
    """A daemon with all of these loaded."""
    chosen = {f"LMX_MODELS__{name.upper()}": value for name, value in settings.items()}
    with shared_daemon(home, *models, settings=chosen) as daemon:
        assert wait_until(lambda: daemon.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield daemon


def post(daemon: Daemon, path: str, **fields: Any) -> Reply:
    """One request."""
    with Connection(daemon) as connection:
        return connection.ask("POST", path, json.dumps(fields).encode())


def embedded_by(daemon: Daemon, name: str | None) -> str:
    """The model that gives vectors for this name."""
    reply = post(daemon, "/v1/embeddings", input="x", model=name)
    assert 200 == reply.status, reply.body
    return str(reply.json()["model"])


def ranked_by(daemon: Daemon, name: str | None) -> tuple[str, str]:
    """The model that ranks for this name, and how."""
    reply = post(daemon, "/v1/rerank", query="x", documents=["x", "y"], model=name)
    assert 200 == reply.status, reply.body
    return reply.json()["model"], reply.json()["meta"]["method"]


def test_any_name_finds_the_embedder_that_is_there(tmp_path: Path) -> None:
    """A chat model's name, one of OpenAI's, none at all; its own name finds another one."""
    with serving(tmp_path, CHAT, EMBEDDER, OTHER) as daemon:
        for name in ("text-embedding-ada-002", "chat", "auto", "", None, "emb"):
            assert "emb" == embedded_by(daemon, name)
        assert "other" == embedded_by(daemon, "other")


def test_settings_name_the_embedder(tmp_path: Path) -> None:
    """It goes before what merely happens to be loaded, and is loaded when it is needed."""
    with serving(tmp_path, CHAT, EMBEDDER, embedding_model=OTHER) as daemon:
        assert "other" == embedded_by(daemon, "text-embedding-3-small")
        assert "emb" == embedded_by(daemon, "emb")


def test_a_reranking_model_ranks_if_there_is_one(tmp_path: Path) -> None:
    """Whatever the name, unless it is an embedding model's."""
    with serving(tmp_path, CHAT, EMBEDDER, RERANKER) as daemon:
        for name in ("rerank-v3.5", "chat", None, "rank"):
            assert ("rank", "cross-encoder") == ranked_by(daemon, name)
        assert ("emb", "embedding-cosine") == ranked_by(daemon, "emb")


def test_without_one_vectors_are_compared(tmp_path: Path) -> None:
    """And the answer says so."""
    with serving(tmp_path, CHAT, EMBEDDER) as daemon:
        assert ("emb", "embedding-cosine") == ranked_by(daemon, "rerank-v3.5")


def test_settings_name_the_reranking_model(tmp_path: Path) -> None:
    """It is loaded when it is needed."""
    with serving(tmp_path, CHAT, rerank_model=RERANKER) as daemon:
        assert ("rank", "cross-encoder") == ranked_by(daemon, None)


def test_chats_never_reach_a_model_of_numbers(tmp_path: Path) -> None:
    """Named, they are refused with the reason; otherwise there is simply no model."""
    messages = [{"role": "user", "content": "hi"}]
    with serving(tmp_path, EMBEDDER, RERANKER) as daemon:
        named = post(daemon, "/v1/chat/completions", model="emb", messages=messages)
        assert (400, "model") == (named.status, named.json()["error"]["param"])
        other = post(daemon, "/v1/chat/completions", model="auto", messages=messages)
        assert (503, "no-model-loaded") == (other.status, other.json()["code"])
        rows = daemon.get_json("/v1/models")[1]["data"]
        assert {"emb": "embedding", "rank": "reranking"} == {r["id"]: r["purpose"] for r in rows}


def test_nothing_is_loaded_where_that_is_not_wanted(tmp_path: Path) -> None:
    """Without loads on demand a request for vectors brings no model."""
    with serving(tmp_path, CHAT, on_demand="false") as daemon:
        reply = post(daemon, "/v1/embeddings", input="x")
        assert (503, "no-model-loaded") == (reply.status, reply.json()["code"])


def test_a_worker_that_dies_is_told_like_any_other(tmp_path: Path) -> None:
    """The request gets its typed error, and the next one is answered."""
    model = "fake:frail?purpose=embedding&fail=abort&fail_step=2"
    with serving(tmp_path, model) as daemon:
        assert "frail" == embedded_by(daemon, None)
        reply = post(daemon, "/v1/embeddings", input="x")
        assert (503, "worker-broken") == (reply.status, reply.json()["code"])
        assert "frail" == embedded_by(daemon, None)
