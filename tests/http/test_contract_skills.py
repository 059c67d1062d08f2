"""The client contract on a real daemon: skills as the Opta CLI lists, shows and runs them.

`tests/contract_more.py` lists the promises; here stand those that no other test checks.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection
from tests.shapes import assert_fits

JSON = {"content-type": "application/json"}
MANIFEST = {
    "schema": "opta.skills.manifest/v1",
    "name": str,
    "namespace": str,
    "version": str,
    "qualified_name": str,
    "reference": str,
    "description": str,
    "kind": str,
    "timeout_sec": float,
    "permission_tags": [str],
    "risk_tags": [str],
    "input_schema": dict,
}
RUN = {
    "skill": str,
    "ok": bool,
    "error": (str, None),
    "duration_ms": float,
    "timed_out": bool,
    "denied": bool,
    "requires_approval": bool,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the skills that it has of itself; they need no model."""
    home = tmp_path_factory.mktemp("home")
    settings = {"HOME": str(home / "user")}
    with shared_daemon(home, "fake:x?load_ms=600000", settings=settings, is_ready=False) as one:
        yield one


def get(daemon: Daemon, path: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path, headers=JSON)
    assert (200, "application/json") == (reply.status, reply.headers["content-type"]), reply.body
    return reply.json()


@pytest.mark.parametrize("query", ["", "?latest_only=true", "?latest_only=false"])
def test_the_list(daemon: Daemon, query: str) -> None:
    """Manifests with all that clients show, and the two that are always there."""
    document = get(daemon, f"/v1/skills{query}")
    assert_fits({"object": "list", "data": [MANIFEST]}, document)
    kinds = {skill["name"]: skill["kind"] for skill in document["data"]}
    assert ("entrypoint", "entrypoint") == (kinds["echo"], kinds["add"])


def test_every_name_of_a_skill(daemon: Daemon) -> None:
    """Short, with its namespace, with its version; slashes and signs encoded or not."""
    echo = get(daemon, "/v1/skills/echo")
    assert_fits(MANIFEST | {"name": "echo"}, echo)
    reference = echo["reference"]
    encoded = reference.replace("/", "%2F").replace("@", "%40")
    for name in (echo["qualified_name"], reference, encoded):
        assert echo == get(daemon, f"/v1/skills/{name}")


RUNS: list[tuple[str, dict[str, Any], Any]] = [
    ("echo", {"arguments": {"text": "hi"}}, "hi"),
    ("builtin%2Fecho", {"arguments": '{"text": "hi"}', "approved": False}, "hi"),
    ("add", {"arguments": {"a": 1, "b": 2}, "timeout_sec": 5}, 3),
    ("add", {"arguments": {"a": 1, "b": 2}, "approved": None, "timeout_sec": None}, 3),
]


@pytest.mark.parametrize(("name", "fields", "output"), RUNS)
def test_the_built_in_ones_run(
    daemon: Daemon, name: str, fields: dict[str, Any], output: object
) -> None:
    """Arguments are an object or its text, and whatever else may be null."""
    reply = post(daemon, f"/v1/skills/{name}/execute", **fields)
    assert 200 == reply.status, reply.body
    assert_fits(RUN | {"ok": True, "error": None, "output": output}, reply.json())


def test_refusals_are_answers(daemon: Daemon) -> None:
    """What a skill cannot do is told in the answer; only an unknown one is an error."""
    reply = post(daemon, "/v1/skills/add/execute", arguments={"a": "no number", "b": 2})
    assert 200 == reply.status, reply.body
    assert_fits(RUN | {"ok": False, "error": str}, reply.json())
    unknown = post(daemon, "/v1/skills/nobody%2Fnothing@1/execute", arguments={})
    assert (404, "not_found") == (unknown.status, unknown.json()["code"])
