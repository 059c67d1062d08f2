"""Quantisations whose processes die: told, begun anew by a restart, and never half there."""

from pathlib import Path
from typing import Any

import psutil
import trio

from tests.daemon_process import Daemon, open_daemon
from tests.http.answers import post
from tests.tiny_models import build_tiny_llama

LIMIT_S = 50.0
MODULE = "lmx.jobs.quantize"


def status(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """How far a quantisation is."""
    code, row = daemon.get_json(f"/admin/quantize/{job_id}")
    assert 200 == code
    return dict(row)


async def wait_child(daemon: Daemon) -> psutil.Process:
    """The process that quantises, once it runs."""
    while True:
        for child in psutil.Process(daemon.pid).children():
            if MODULE in child.cmdline():
                return child
        await trio.sleep(0.02)


async def wait_ended(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """A quantisation that has ended."""
    while status(daemon, job_id)["status"] in {"pending", "running"}:  # noqa: ASYNC110  # a poll
        await trio.sleep(0.05)
    return status(daemon, job_id)


async def test_what_dies_is_told_or_begun_anew(tmp_path: Path) -> None:
    """A killed process fails its job; a killed daemon takes its jobs up again."""
    build_tiny_llama(tmp_path / "models/org/tiny")
    with trio.fail_after(LIMIT_S):
        async with open_daemon(tmp_path, "fake:x") as daemon:
            first = post(daemon, "/admin/quantize", source_model="org/tiny").json()["job_id"]
            (await wait_child(daemon)).kill()
            row = await wait_ended(daemon, first)
            assert ("failed", "job-crashed") == (row["status"], row["error_code"])
            assert "signal 9" in row["error"]
            second = post(daemon, "/admin/quantize", source_model="org/tiny").json()["job_id"]
            child = await wait_child(daemon)
            daemon.kill()
            gone, alive = psutil.wait_procs([child], timeout=10)
            assert (1, []) == (len(gone), alive)
        async with open_daemon(tmp_path, "fake:x") as daemon:
            assert "completed" == (await wait_ended(daemon, second))["status"]
            assert "failed" == status(daemon, first)["status"]
    assert ["tiny-4bit"] == [path.name for path in (tmp_path / "quantized").iterdir()]
