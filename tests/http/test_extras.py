"""Presets, roles, habits, helpers and sessions on the wire."""

import json
from collections.abc import Iterator

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection

ROUTING = {
    "LMX_ROUTING__ALIASES": "{fast: [gone, two], slow: one}",
    "LMX_ROUTING__DEFAULT_MODEL": "two",
}
PRESET = "{model: fast, parameters: {max_tokens: 3}, routing_alias: brief}"
SESSION = {"title": "Trip", "model": "m", "updated": "2026-02-01", "messages": []}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two models, names for them, a preset, a broken one, and sessions."""
    home = tmp_path_factory.mktemp("home")
    (home / "presets").mkdir()
    (home / "presets" / "short.yaml").write_text(PRESET)
    (home / "presets" / "broken.yaml").write_text("{}")
    user = tmp_path_factory.mktemp("user")
    sessions = user / ".config" / "opta" / "sessions"
    sessions.mkdir(parents=True)
    for name in ("a", "b"):
        (sessions / f"{name}.json").write_text(json.dumps(SESSION))
    settings = {**ROUTING, "HOME": str(user)}
    with shared_daemon(home, "fake:one?tokens=9", "fake:two?tokens=9", settings=settings) as shared:
        yield shared


def test_names_that_the_settings_give(daemon: Daemon) -> None:
    """The answer says which model it was."""
    meant = {"fast": "two", "slow": "one", "one": "one", "": "two", "auto": "two", "code": "two"}
    for name, model_id in meant.items():
        assert model_id == chat(daemon, name).json()["model"], name


def test_presets_answer(daemon: Daemon) -> None:
    """By name and by alias, with their parameters, and the request's own before them."""
    for name in ("preset:short", "brief"):
        answer = chat(daemon, name).json()
        assert ("two", 3, "length") == (
            answer["model"],
            answer["usage"]["completion_tokens"],
            answer["choices"][0]["finish_reason"],
        )
    assert 2 == chat(daemon, "brief", max_tokens=2).json()["usage"]["completion_tokens"]
    assert 404 == chat(daemon, "preset:none").status


def test_presets_are_listed_shown_and_read_again(daemon: Daemon) -> None:
    """A broken one with its reason."""
    listed = daemon.get_json("/admin/presets")[1]
    assert (1, 1, ["short"]) == (
        listed["count"],
        listed["total"],
        [preset["name"] for preset in listed["presets"]],
    )
    assert "model" in listed["broken"][0]["error"]
    status, shown = daemon.get_json("/admin/presets/short")
    assert (200, "brief", {"max_tokens": 3}) == (
        status,
        shown["routing_alias"],
        shown["parameters"],
    )
    assert 404 == daemon.get_json("/admin/presets/none")[0]
    again = post(daemon, "/admin/presets/reload").json()
    assert (False, 1, ["short"]) == (again["success"], again["count"], again["presets"])


def test_the_stack_tells_what_names_mean(daemon: Daemon) -> None:
    """Which model would answer now."""
    stack = daemon.get_json("/admin/stack")[1]
    assert {
        "fast": {"preferences": ["gone", "two"], "resolved_model": "two", "loaded": True},
        "slow": {"preferences": ["one"], "resolved_model": "one", "loaded": True},
    } == stack["roles"]
    assert ("two", {}) == (stack["default_model"], stack["helper_nodes"])


def test_habits_are_counts(daemon: Daemon) -> None:
    """Requests by model; nothing is predicted."""
    chat(daemon, "one")
    habits = daemon.get_json("/admin/predictor")[1]
    counts = dict(habits["top_models"])
    assert counts["one"] >= 1
    assert (sum(counts.values()), None) == (habits["total_accesses"], habits["predicted_next"])


def test_there_are_no_helpers(daemon: Daemon) -> None:
    """And that is what is said."""
    helpers = daemon.get_json("/admin/helpers")[1]
    assert ({}, 0, True) == (
        helpers["helpers"],
        helpers["configured_count"],
        helpers["all_healthy"],
    )


def test_sessions_are_listed_searched_shown_and_deleted(daemon: Daemon) -> None:
    """As the CLI wrote them."""
    listed = daemon.get_json("/admin/sessions?limit=1&offset=1&model=m&since=2026")[1]
    assert (1, 2, 1, 1) == (
        len(listed["sessions"]),
        listed["total"],
        listed["limit"],
        listed["offset"],
    )
    assert 2 == len(daemon.get_json("/admin/sessions/search?q=trip")[1])
    assert [] == daemon.get_json("/admin/sessions/search?q=nothing")[1]
    assert 0 == daemon.get_json("/admin/sessions?model=other")[1]["total"]
    assert "Trip" == daemon.get_json("/admin/sessions/a")[1]["title"]
    assert 404 == daemon.get_json("/admin/sessions/none")[0]
    assert 400 == daemon.get_json("/admin/sessions?limit=x")[0]
    with Connection(daemon) as connection:
        for expected in (True, False):
            reply = connection.ask("DELETE", "/admin/sessions/b")
            assert {"deleted": expected} == reply.json()
