"""``lmx pull``, ``lmx downloads``, ``lmx quantize`` and loads that need a download."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmx.cli import pulling
from tests.cli_fakes import Asked, FakeDaemon, fake_daemon, refusal, run_lmx
from tests.tiny_gguf import TinyLlama

MODEL = "org/name"
STARTED = {
    "download_id": "d/1",
    "repo_id": MODEL,
    "estimated_size_bytes": 4_000_000,
    "status": "pending",
}
PROGRESS = "GET /admin/models/download/d/1/progress"
LOADED = {
    "status": "loaded",
    "model_id": MODEL,
    "vram_gb": 4.0,
    "backend": "mlx",
    "context_length": 4096,
    "time_to_load_ms": 1000.0,
}


def row(status: str, done: int, **more: Any) -> dict[str, Any]:
    """One row of a download."""
    return {
        "download_id": "d/1",
        "repo_id": MODEL,
        "status": status,
        "progress_percent": 25.0 * done,
        "downloaded_bytes": done * 1_000_000,
        "total_bytes": 4_000_000,
        "files_completed": done,
        "files_total": 4,
        "error": None,
        "error_code": None,
        **more,
    }


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A daemon that downloads one model in three looks."""
    with fake_daemon() as daemon:
        daemon.answers = {
            "POST /admin/models/download": STARTED,
            PROGRESS: [row("pending", 0), row("downloading", 2), row("completed", 4)],
        }
        yield daemon


def test_pull_watches_to_the_end(daemon: FakeDaemon, tmp_path: Path) -> None:
    """What was asked for travels as the contract names it; a script is not asked anything."""
    outcome = run_lmx(
        *("pull", MODEL, "--revision", "v2", "--include", "*Q4*", "--include", "*.json"),
        home=tmp_path,
        daemon=daemon,
    )
    assert (0, "org/name is there, 4.0 MB\n") == (outcome.status, outcome.out)
    body = {"repo_id": MODEL, "revision": "v2", "allow_patterns": ["*Q4*", "*.json"]}
    assert [body] == daemon.bodies("POST /admin/models/download")


def test_pull_prints_each_state_once_as_json_lines(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The last line is how it ended."""
    outcome = run_lmx("pull", MODEL, "--json", home=tmp_path, daemon=daemon)
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert ["pending", "downloading", "completed"] == [line["status"] for line in lines]


@pytest.mark.parametrize(
    ("code", "status"), [("cancelled", 1), ("storage-full", 6), ("digest-mismatch", 1)]
)
def test_a_download_that_fails_says_why(
    daemon: FakeDaemon, tmp_path: Path, *, code: str, status: int
) -> None:
    """A full disk has a status of its own."""
    daemon.answers[PROGRESS] = row("failed", 1, error="because", error_code=code)
    outcome = run_lmx("pull", MODEL, home=tmp_path, daemon=daemon)
    assert status == outcome.status
    assert ("was cancelled" if code == "cancelled" else "failed: because") in outcome.err


def test_a_daemon_that_starts_anew_is_waited_for(daemon: FakeDaemon, tmp_path: Path) -> None:
    """A hub that answers nothing for a moment does not end the watching."""
    looks = iter([row("downloading", 1), None, row("completed", 4)])

    def look(_asked: Asked) -> Any:
        found = next(looks)
        if found is None:
            raise ConnectionAbortedError  # the handler ends without an answer
        return found

    daemon.answers[PROGRESS] = look
    outcome = run_lmx("pull", MODEL, home=tmp_path, daemon=daemon)
    assert 0 == outcome.status
    assert pulling.AWAY_S > 10


def test_a_download_is_cancelled_by_its_model(daemon: FakeDaemon, tmp_path: Path) -> None:
    """And a model that is not being downloaded is not found."""
    daemon.answers["GET /admin/models/downloads"] = {"downloads": [row("downloading", 1)]}
    daemon.answers["POST /admin/models/download/d/1/cancel"] = row("failed", 1)
    outcome = run_lmx("pull", MODEL, "--cancel", home=tmp_path, daemon=daemon)
    assert (0, "the download of org/name is cancelled\n") == (outcome.status, outcome.out)
    assert 5 == run_lmx("pull", "other", "--cancel", home=tmp_path, daemon=daemon).status


def test_downloads_are_listed(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Running ones, and with --all those that ended."""
    failed = row("failed", 1, error="no room")
    daemon.answers["GET /admin/models/downloads"] = {"downloads": [failed]}
    outcome = run_lmx("downloads", "--all", home=tmp_path, daemon=daemon)
    cells = outcome.out.splitlines()[1].split()
    assert ["org/name", "failed", "25%", "4.0", "MB", "no", "room"] == cells
    assert "include_inactive=true" == daemon.asked[-1].query


def test_downloads_that_are_off_say_so(daemon: FakeDaemon, tmp_path: Path) -> None:
    """It is no matter of keys."""
    daemon.answers["POST /admin/models/download"] = (
        403,
        refusal("downloads_disabled", "downloads are switched off"),
    )
    outcome = run_lmx("pull", MODEL, home=tmp_path, daemon=daemon)
    assert (1, "lmx: downloads are switched off\n") == (outcome.status, outcome.err)


def test_a_load_downloads_with_consent(daemon: FakeDaemon, tmp_path: Path) -> None:
    """202, confirmation, progress, and then the load that the daemon begins by itself."""
    needed = {
        "status": "download_required",
        "model_id": MODEL,
        "confirmation_token": "t",
        "estimated_size_human": "4.0 MB",
    }
    daemon.answers["POST /admin/models/load"] = [(202, needed), LOADED]
    daemon.answers["POST /admin/models/load/confirm"] = (
        202,
        {"status": "downloading", "model_id": MODEL, "download_id": "d/1"},
    )
    outcome = run_lmx("load", MODEL, "--yes", home=tmp_path, daemon=daemon)
    assert 0 == outcome.status
    assert "org/name answers" in outcome.out
    assert [{"confirmation_token": "t"}] == daemon.bodies("POST /admin/models/load/confirm")


def test_a_load_downloads_nothing_without_consent(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nobody is at the terminal to be asked."""
    needed = {
        "status": "download_required",
        "model_id": MODEL,
        "confirmation_token": "t",
        "estimated_size_human": "4.0 MB",
    }
    daemon.answers["POST /admin/models/load"] = (202, needed)
    outcome = run_lmx("load", MODEL, home=tmp_path, daemon=daemon)
    assert 2 == outcome.status
    assert "Download org/name, 4.0 MB? Say --yes" in outcome.err


def test_quantize_watches_its_job(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Until it is done, and says where the model is."""
    job = {"job_id": "q1", "source_model": MODEL, "output_path": "/q/name-4bit", "bits": 4}
    daemon.answers["POST /admin/quantize"] = job | {"status": "pending"}
    daemon.answers["GET /admin/quantize/q1"] = [
        job | {"status": "running", "progress_percent": 10.0},
        job | {"status": "completed", "output_size_bytes": 1_000_000},
    ]
    outcome = run_lmx("quantize", MODEL, "--bits", "4", home=tmp_path, daemon=daemon)
    assert (0, "/q/name-4bit is there, 1.0 MB\n") == (outcome.status, outcome.out)
    body = {"source_model": MODEL, "bits": 4, "group_size": 64}
    assert [body] == daemon.bodies("POST /admin/quantize")
    daemon.answers["GET /admin/quantize/q1"] = job | {"status": "failed", "error": "no room"}
    failed = run_lmx("quantize", MODEL, home=tmp_path, daemon=daemon)
    assert (1, "lmx: org/name was not quantised: no room\n") == (failed.status, failed.err)


def test_numbers_that_no_conversion_has(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Refused with those there are, before the daemon is asked."""
    outcome = run_lmx("quantize", MODEL, "--bits", "5", home=tmp_path, daemon=daemon)
    assert (2, True) == (outcome.status, "5 is none of 4, 8" in outcome.err)
    assert [] == daemon.asked


def test_a_conversion_is_cancelled_by_its_model(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Only one that runs; what has ended is not found."""
    job = {"job_id": "q1", "source_model": MODEL, "status": "running"}
    daemon.answers["GET /admin/quantize"] = {"jobs": [job, job | {"status": "failed"}]}
    daemon.answers["POST /admin/quantize/q1/cancel"] = {"cancelled": True}
    outcome = run_lmx("quantize", MODEL, "--cancel", home=tmp_path, daemon=daemon)
    assert (0, "the conversion of org/name is cancelled\n") == (outcome.status, outcome.out)
    daemon.answers["GET /admin/quantize"] = {"jobs": [job | {"status": "failed"}]}
    assert 5 == run_lmx("quantize", MODEL, "--cancel", home=tmp_path, daemon=daemon).status


def test_what_is_imported_is_named_or_a_gguf_file(tmp_path: Path) -> None:
    """Anything else is wrong usage; a file that is not there is a failure."""
    wrong = run_lmx("import", "something", home=tmp_path)
    assert 2 == wrong.status
    assert "neither a .gguf file nor one of demo, embedder" in wrong.err
    gone = run_lmx("import", str(tmp_path / "none.gguf"), home=tmp_path)
    assert 1 == gone.status
    assert "there is no file" in gone.err


def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    """It becomes an MLX directory below the home; importing it again finds that."""
    TinyLlama().write(tmp_path / "tiny.gguf")
    made = [
        run_lmx("import", str(tmp_path / "tiny.gguf"), "--json", home=tmp_path / "home")
        for _ in range(2)
    ]
    assert [0, 0] == [outcome.status for outcome in made], made[0].err
    first, second = (outcome.document for outcome in made)
    assert first == second
    assert (Path(first["path"]) / "config.json").is_file()
    assert first["model_id"].startswith("tiny-mlx-")
