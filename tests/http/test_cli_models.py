"""The commands about models, against a daemon of the test's own."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.cli_fakes import FakeDaemon, fake_daemon, refusal, run_lmx

LIMIT_S = 30.0
ROW = {
    "id": "org/Some-7B-4bit",
    "memory_gb": 4.25,
    "backend": "mlx",
    "context_length": 32768,
    "keep_alive_sec": 600,
    "last_used_at": 0.0,
}
ON_DISK = {
    "id": "Some-7B-4bit",
    "path": "org/Some-7B-4bit",
    "loaded": False,
    "size_bytes": 4_200_000_000,
    "format": "mlx",
    "status": "complete",
    "quantisation": "4bit",
    "parameter_count": 7_600_000_000,
    "context_length": 32768,
}
LOADED = {
    "status": "loaded",
    "model_id": "org/Some-7B-4bit",
    "vram_gb": 4.25,
    "backend": "mlx",
    "context_length": 32768,
    "time_to_load_ms": 2500.0,
}


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A daemon with one model on disk and loaded."""
    with fake_daemon() as daemon:
        daemon.answers = {
            "GET /admin/models": {
                "loaded": [ROW | {"last_used_at": time.time() - 90}],
                "count": 1,
                "loading": [],
                "models": [ON_DISK],
            },
            "GET /admin/requests": {"requests": [], "count": 0},
        }
        yield daemon


def test_status_is_short(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Address, version, memory, models and requests, each on a line."""
    daemon.answers["GET /admin/status"] = {
        "version": "1.2.3",
        "uptime_seconds": 7300,
        "models": ["a"],
        "loading": [{"id": "b", "state": "loading", "reason": None, "waiting": 2}],
        "memory": {"used_gb": 12.0, "total_gb": 64.0, "used_percent": 18.75},
        "in_flight_requests": 3,
        "waiting_requests": 4,
    }
    outcome = run_lmx("status", home=tmp_path, daemon=daemon)
    assert 0 == outcome.status
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert [
        f"address {daemon.url}",
        "version 1.2.3",
        "up for 2 h 1 min",
        "memory 12.0 of 64.0 GB used (19%)",
        "models a",
        "b (loading, 2 waiting)",
        "requests 3 running, 4 waiting",
    ] == lines


def test_ps_shows_idle_time_and_end(daemon: FakeDaemon, tmp_path: Path) -> None:
    """A model that is idle says for how long and when it goes; one that works does not idle."""
    outcome = run_lmx("ps", home=tmp_path, daemon=daemon)
    cells = outcome.out.splitlines()[1].split()
    assert "org/Some-7B-4bit 4.2 GB mlx 32,768 0 1 min in 8 min" == " ".join(cells)
    running = {"requests": [{"model_id": ROW["id"]}], "count": 1}
    daemon.answers["GET /admin/requests"] = running
    busy = run_lmx("ps", "--json", home=tmp_path, daemon=daemon)
    assert 1 == busy.document["loaded"][0]["running"]


def test_list_is_readable_in_a_pipe(daemon: FakeDaemon, tmp_path: Path) -> None:
    """No colour, no frame, no cut id, however long it is."""
    long_id = "org/" + "x" * 150
    daemon.answers["GET /admin/models"]["models"].append(ON_DISK | {"path": long_id})
    outcome = run_lmx("list", home=tmp_path, daemon=daemon)
    assert 0 == outcome.status
    assert "\x1b" not in outcome.out
    first, second = (line.split() for line in outcome.out.splitlines()[1:])
    assert ["org/Some-7B-4bit", "4.2", "GB", "mlx", "4bit", "7.6B", "32,768"] == first
    assert long_id == second[0]


def test_json_is_one_document_and_nothing_else(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Also for a failure, which names code and exit status."""
    outcome = run_lmx("list", "--json", home=tmp_path, daemon=daemon)
    assert {"models": [ON_DISK]} == outcome.document
    del daemon.answers["GET /admin/models"]
    failed = run_lmx("list", "--json", home=tmp_path, daemon=daemon)
    assert 5 == failed.status
    error = {"code": "not_found", "message": "there is no /admin/models"}
    assert {"error": error, "exit_status": 5} == failed.document


def test_a_load_says_what_it_took(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The options travel under the contract's names."""
    daemon.answers["POST /admin/models/load"] = LOADED
    outcome = run_lmx(
        *("load", "some", "--context", "8192", "--keep-alive", "60"), home=tmp_path, daemon=daemon
    )
    assert (0, "") == (outcome.status, outcome.err)
    assert (
        "org/Some-7B-4bit answers: 4.2 GB, mlx, context of 32,768 tokens, 2.5 s"
        == outcome.out.strip()
    )
    asked = {"model_id": "some", "max_context_length": 8192, "keep_alive_sec": 60.0}
    assert [asked] == daemon.bodies("POST /admin/models/load")


def test_a_load_that_is_not_waited_for_goes_on(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The command hangs up and says where to look."""

    def load(_asked: Any) -> Any:
        may_end.wait(LIMIT_S)
        return LOADED

    may_end = Event()
    daemon.answers["POST /admin/models/load"] = load
    daemon.answers["GET /admin/models/some/card"] = {}
    outcome = run_lmx("load", "some", "--no-wait", home=tmp_path, daemon=daemon)
    may_end.set()
    assert 0 == outcome.status
    assert "some is on its way" in outcome.out


def test_a_load_that_asks_the_hub_is_waited_for(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Hanging up would end the question, so `--no-wait` stays until the daemon has its answer."""
    answers = iter([may_end := Event(), None])

    def load(_asked: Any) -> Any:
        if (waits := next(answers)) is not None:
            waits.wait(LIMIT_S)
        return 404, refusal("not_found", "no hub has it")

    daemon.answers["POST /admin/models/load"] = load
    outcome = run_lmx("load", "org/some", "--no-wait", home=tmp_path, daemon=daemon)
    may_end.set()
    assert (5, "lmx: no hub has it\n") == (outcome.status, outcome.err)


def test_a_load_that_does_not_fit_says_who_has_the_memory(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Status 6, the daemon's numbers, and what could be unloaded."""
    daemon.answers["POST /admin/models/load"] = (
        507,
        refusal("out_of_memory", "it needs 9.0 GB, 2.0 GB are free"),
    )
    outcome = run_lmx("load", "some", home=tmp_path, daemon=daemon)
    assert 6 == outcome.status
    assert (
        "lmx: it needs 9.0 GB, 2.0 GB are free. Loaded: org/Some-7B-4bit (4.2 GB); "
        "`lmx unload` frees it. A shorter --context takes less.\n" == outcome.err
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "not_found", 5),
        (403, "unauthorized", 4),
        (401, "unauthorized", 4),
        (403, "downloads_disabled", 1),
        (409, "model_unstable", 1),
        (422, "corrupt-model", 1),
        (400, "invalid-request", 2),
        (507, "storage-full", 6),
    ],
)
def test_refusals_have_exit_statuses(
    daemon: FakeDaemon, tmp_path: Path, *, status: int, code: str, expected: int
) -> None:
    """Programs can tell them apart, people read the daemon's sentence."""
    daemon.answers["POST /admin/models/load"] = (status, refusal(code, "because"))
    outcome = run_lmx("load", "some", home=tmp_path, daemon=daemon)
    assert expected == outcome.status
    assert outcome.err.startswith("lmx: because")


def test_unload_tells_what_came_free(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Without a name it leaves the choice to the daemon."""
    daemon.answers["POST /admin/models/unload"] = {"model_id": "a", "memory_freed_gb": 2.0}
    outcome = run_lmx("unload", home=tmp_path, daemon=daemon)
    assert (0, "a is unloaded, 2.0 GB free again\n") == (outcome.status, outcome.out)
    assert 0 == run_lmx("unload", "b", home=tmp_path, daemon=daemon).status
    assert [{}, {"model_id": "b"}] == daemon.bodies("POST /admin/models/unload")


def test_rm_asks_first(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Without a terminal nobody can answer, so nothing is deleted; --yes goes by the whole id."""
    refused = run_lmx("rm", "some-7b-4bit", home=tmp_path, daemon=daemon)
    assert 2 == refused.status
    assert "Delete org/Some-7B-4bit, 4.2 GB? Say --yes" in refused.err
    route = "DELETE /admin/models/org/Some-7B-4bit"
    assert [] == daemon.bodies(route)
    daemon.answers[route] = {"model_id": "org/Some-7B-4bit", "freed_bytes": 4_200_000_000}
    outcome = run_lmx("rm", "some-7b-4bit", "--yes", home=tmp_path, daemon=daemon)
    assert (0, "org/Some-7B-4bit is deleted, 4.2 GB free\n") == (outcome.status, outcome.out)
    assert 5 == run_lmx("rm", "other", "--yes", home=tmp_path, daemon=daemon).status


def test_nobody_there_is_status_3(tmp_path: Path) -> None:
    """The sentence names the address and what starts a daemon."""
    with fake_daemon() as daemon:
        pass  # its port is free again
    outcome = run_lmx("ps", home=tmp_path, daemon=daemon)
    assert 3 == outcome.status
    assert f"no daemon answers at {daemon.url}; `lmx serve` starts one" in outcome.err


def test_keys_of_this_machine_stay_on_it(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The settings' admin key goes to a loopback address; the command line's goes anywhere."""
    (tmp_path / "config.yaml").write_text("security:\n  admin_key: local-key\n")
    run_lmx("list", home=tmp_path, daemon=daemon)
    run_lmx("list", "--admin-key", "mine", home=tmp_path, daemon=daemon)
    assert ["local-key", "mine"] == [one.headers.get("X-Admin-Key") for one in daemon.asked]


def test_keys_are_what_headers_can_carry(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Any letters, in UTF-8 as the daemon reads them; a line end is refused, and not shown."""
    key = "ключ"
    assert 0 == run_lmx("list", "--admin-key", key, home=tmp_path, daemon=daemon).status
    assert key.encode() == daemon.asked[-1].headers["X-Admin-Key"].encode("latin-1")
    outcome = run_lmx("list", "--admin-key", "a\nb", home=tmp_path, daemon=daemon)
    assert (2, "lmx: a key holds what no header can carry\n") == (outcome.status, outcome.err)


def test_settings_that_cannot_be_read_are_status_78(tmp_path: Path) -> None:
    """They would say where the daemon is."""
    (tmp_path / "config.yaml").write_text("server: {port: many}\n")
    outcome = run_lmx("ps", "--json", home=tmp_path)
    assert (78, 78) == (outcome.status, outcome.document["exit_status"])


def test_vectors_come_one_per_line(daemon: FakeDaemon, tmp_path: Path) -> None:
    """As JSON arrays or as base64; texts come as arguments or as lines."""
    rows = [{"embedding": [0.5, 1.0]}, {"embedding": [2.0, 3.0]}]
    daemon.answers["POST /v1/embeddings"] = {"data": rows}
    outcome = run_lmx("embed", home=tmp_path, daemon=daemon, stdin="one\n\ntwo\n")
    assert [[0.5, 1.0], [2.0, 3.0]] == [json.loads(line) for line in outcome.out.splitlines()]
    daemon.answers["POST /v1/embeddings"] = {"data": [{"embedding": "AAAAPw=="}]}
    coded = run_lmx("embed", "one", "--base64", "-m", "e", home=tmp_path, daemon=daemon)
    assert "AAAAPw==\n" == coded.out
    assert [
        {"input": ["one", "two"], "encoding_format": "float"},
        {"input": ["one"], "encoding_format": "base64", "model": "e"},
    ] == daemon.bodies("POST /v1/embeddings")
    assert 2 == run_lmx("embed", home=tmp_path, daemon=daemon).status


def test_foreign_text_moves_no_cursor(daemon: FakeDaemon, tmp_path: Path) -> None:
    """An id with an escape sequence is shown without it."""
    daemon.answers["GET /admin/models"]["models"] = [ON_DISK | {"path": "a\x1b[2Jb[red]"}]
    outcome = run_lmx("list", home=tmp_path, daemon=daemon)
    assert "a\N{REPLACEMENT CHARACTER}[2Jb[red]" in outcome.out
