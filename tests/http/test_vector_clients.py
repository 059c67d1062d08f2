"""OpenAI's and Cohere's official clients get what they expect."""

import math
from collections.abc import Iterator

import cohere
import openai
import pytest
from cohere.errors import BadRequestError

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import wait_until

WIDTH = 8
SETTINGS = {
    "LMX_MODELS__EMBEDDING_MODEL": f"fake:emb?purpose=embedding&width={WIDTH}&context=64",
    "LMX_MODELS__RERANK_MODEL": "fake:rank?purpose=reranking&context=64",
}
DOCUMENTS = ["red fox", "quick red fox", "snail"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a model of each kind."""
    models = ("fake:x", *SETTINGS.values())
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=SETTINGS) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


@pytest.fixture
def openai_client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """OpenAI's."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def cohere_client(daemon: Daemon) -> cohere.Client:
    """Cohere's, of version 1."""
    return cohere.Client(base_url=daemon.url, api_key="unused", max_retries=0)


@pytest.fixture
def cohere_client_v2(daemon: Daemon) -> cohere.ClientV2:
    """Cohere's, of version 2."""
    return cohere.ClientV2(base_url=daemon.url, api_key="unused", max_retries=0)


def test_openai_asks_for_base64_and_reads_it(openai_client: openai.OpenAI) -> None:
    """Its default, by the name of a model that is nowhere here."""
    texts = ["hello", "日本語 🙂"]
    packed = openai_client.embeddings.create(model="text-embedding-ada-002", input=texts)
    assert ("list", "emb", 6 + 15) == (packed.object, packed.model, packed.usage.prompt_tokens)
    assert [0, 1] == [row.index for row in packed.data]
    spelled = openai_client.embeddings.create(
        model="text-embedding-3-small", input=texts, encoding_format="float"
    )
    for one, two in zip(packed.data, spelled.data, strict=True):
        assert list(two.embedding) == list(one.embedding)
        assert math.isclose(1.0, math.hypot(*one.embedding), rel_tol=1e-6)


def test_openai_sends_tokens_and_dimensions(openai_client: openai.OpenAI) -> None:
    """Lists of token ids, cut to fewer numbers."""
    reply = openai_client.embeddings.create(
        model="emb", input=[[1, 104], [1, 105]], dimensions=3, user="me"
    )
    assert [3, 3] == [len(row.embedding) for row in reply.data]


def test_openai_reads_what_is_wrong(openai_client: openai.OpenAI) -> None:
    """The place of an input that is too long, and no retry."""
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.embeddings.create(model="emb", input=["a", "x" * 64])
    assert ("input.1", "context_length_exceeded") == (raised.value.param, raised.value.code)
    cut = openai_client.embeddings.create(
        model="emb", input=["a", "x" * 64], extra_body={"truncate": True}
    )
    assert 2 + 64 == cut.usage.total_tokens


def test_cohere_of_version_2_ranks(cohere_client_v2: cohere.ClientV2) -> None:
    """Best first, with an id and what would be billed."""
    reply = cohere_client_v2.rerank(
        model="rerank-v3.5", query="quick fox", documents=DOCUMENTS, top_n=2
    )
    assert [(1, 1.0), (0, 0.5)] == [(row.index, row.relevance_score) for row in reply.results]
    assert reply.id is not None
    assert reply.meta is not None
    assert reply.meta.api_version is not None
    assert reply.meta.billed_units is not None
    assert ("2", 1) == (reply.meta.api_version.version, reply.meta.billed_units.search_units)


def test_cohere_of_version_1_ranks(cohere_client: cohere.Client) -> None:
    """Document objects come back with all that was in them."""
    documents = [{"text": text, "number": str(place)} for place, text in enumerate(DOCUMENTS)]
    reply = cohere_client.rerank(query="quick fox", documents=documents, return_documents=True)
    assert [1, 0, 2] == [row.index for row in reply.results]
    shown = reply.results[0].document
    assert shown is not None
    assert {"text": "quick red fox", "number": "1"} == shown.model_dump()
    assert reply.meta is not None
    assert reply.meta.tokens is not None
    assert sum(len(f" quick fox {text}") for text in DOCUMENTS) == reply.meta.tokens.input_tokens


def test_cohere_ranks_by_fields(cohere_client: cohere.Client) -> None:
    """Those that it names, and no others."""
    documents = [{"title": "snail", "body": "fox"}, {"title": "fox", "body": "snail"}]
    reply = cohere_client.rerank(query="fox", documents=documents, rank_fields=["title"])
    assert [(1, 1.0), (0, 0.0)] == [(row.index, row.relevance_score) for row in reply.results]


def test_cohere_reads_what_is_wrong(cohere_client_v2: cohere.ClientV2) -> None:
    """A field that cannot be honoured is refused by its name."""
    with pytest.raises(BadRequestError) as raised:
        cohere_client_v2.rerank(model="m", query="a", documents=["b"], max_tokens_per_doc=5)
    assert "max_tokens_per_doc" == raised.value.body["error"]["param"]
