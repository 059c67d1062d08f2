"""The monitoring routes over HTTP: what a scraper and a dashboard get, and how fast."""

import time
from collections.abc import Iterator

import pytest

from lmx.schema.metrics import METRICS
from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply
from tests.scrapes import Scraped


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One model answers."""
    with shared_daemon(tmp_path_factory.mktemp("home"), "fake:x?tokens=4") as shared:
        yield shared


def get(daemon: Daemon, path: str) -> Reply:
    """A plain GET."""
    with Connection(daemon) as connection:
        return connection.ask("GET", path)


@pytest.mark.parametrize("path", ["/metrics", "/admin/metrics"])
def test_prometheus_can_read_it(daemon: Daemon, path: str) -> None:
    """The media type of the text format, and text that its own parser takes: every metric."""
    assert 200 == chat(daemon, "x").status
    reply = get(daemon, path)
    kind = "text/plain; version=0.0.4; charset=utf-8"
    assert (200, kind) == (reply.status, reply.headers["content-type"])
    scraped = Scraped(reply.body.decode())
    assert {metric.name.removesuffix("_total") for metric in METRICS} == set(scraped.kinds)
    assert [] == scraped.imbalances()
    assert 0 < scraped.value("lmx_daemon_resident_bytes")


def test_requests_are_counted_by_model_and_client(daemon: Daemon) -> None:
    """One more request is one more under its model, under its client and in all."""
    before = get(daemon, "/admin/metrics/json").json()
    body = b'{"model": "x", "prompt": ["a", "b"], "max_tokens": 2}'
    with Connection(daemon) as connection:
        headers = {"x-client-id": "the desk"}
        reply = connection.ask("POST", "/v1/completions", body, headers=headers)
    assert 200 == reply.status
    after = get(daemon, "/admin/metrics/json").json()
    assert 2 == after["requests"]["completed"] - before["requests"]["completed"]
    assert 2 == after["per_client"]["the desk"]["requests"]
    used = reply.json()["usage"]
    assert (
        used["completion_tokens"] == after["tokens"]["completion"] - before["tokens"]["completion"]
    )
    assert used["prompt_tokens"] == after["tokens"]["prompt"] - before["tokens"]["prompt"]
    assert after["total_requests"] == after["requests"]["total"]


def test_errors_are_told(daemon: Daemon) -> None:
    """The last error is the first of the list, with its code and what the client was told."""
    told = chat(daemon, "nowhere").json()
    shown = get(daemon, "/admin/diagnostics").json()
    error = shown["recent_errors"][0]
    assert ("model-not-found", "nowhere") == (error["category"], error["model"])
    assert told["error"]["message"] == error["message"]
    assert abs(time.time() - error["timestamp"]) < 60


def test_there_is_one_uptime(daemon: Daemon) -> None:
    """Every document that tells it counts from the same start."""
    paths = ("/healthz", "/admin/status", "/admin/metrics/json", "/admin/diagnostics")
    told = [get(daemon, path).json()["uptime_seconds"] for path in paths]
    assert sorted(told) == told
    assert told[-1] - told[0] < 5


def test_an_unknown_request_cannot_be_ended(daemon: Daemon) -> None:
    """The id is refused by name."""
    reply = post(daemon, "/admin/requests/req_1/cancel")
    body = reply.json()
    assert (404, "not_found", "request_id") == (
        reply.status,
        body["code"],
        body["error"]["param"],
    )


def test_health_is_always_200(daemon: Daemon) -> None:
    """With a model on the CPU there is no device memory to show."""
    reply = get(daemon, "/admin/health")
    shown = reply.json()
    assert (200, None, {}, 1) == (
        reply.status,
        shown["metal"],
        shown["helpers"],
        shown["models_loaded"],
    )
