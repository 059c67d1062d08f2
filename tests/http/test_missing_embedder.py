"""What clients hear where the embedder is not on disk and cannot be fetched."""

import json
from collections.abc import Iterator

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a chat model, on a machine without a network."""
    with shared_daemon(
        tmp_path_factory.mktemp("home"), "fake:chat?tokens=2", settings=OFFLINE
    ) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": "x", "model": "text-embedding-ada-002"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ],
)
def test_the_error_says_what_to_do(daemon: Daemon, path: str, fields: dict[str, object]) -> None:
    """It is a failed import, soon, and names the command; each request tries again."""
    for _ in range(2):
        with Connection(daemon) as connection:
            reply = connection.ask("POST", path, json.dumps(fields).encode())
        assert 422 == reply.status, reply.body
        error = reply.json()["error"]
        assert "import-failed" == error["code"]
        assert "all-MiniLM-L6-v2 is not on this machine" in error["message"]
        assert "`lmx import embedder`" in error["message"]


def test_chat_goes_on(daemon: Daemon) -> None:
    """The model that is there answers as if nothing had happened."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    with Connection(daemon) as connection:
        reply = connection.ask("POST", "/v1/chat/completions", json.dumps(body).encode())
    assert 200 == reply.status
