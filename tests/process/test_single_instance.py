"""Two daemons of one home: the second is told why, and what a dead one left stops nobody."""

import os
import subprocess
import sys
from pathlib import Path

import trio

from lmx.daemon.instance import read_lock
from tests.chat_client import wait_until, worker_processes
from tests.daemon_process import HOST, REPOSITORY, open_daemon, spawn_daemon

EXIT_ALREADY_RUNNING = 75


def serve_again(home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What becomes of another daemon of that home."""
    return subprocess.run(
        [sys.executable, "-m", "lmx", "serve", "--host", HOST, "--port", "0", "--model", "fake:b"],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "LMX_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_second_daemon_names_the_first(tmp_path: Path) -> None:
    """One line with pid and address, status 75, and 0 under launchd, which would try for ever."""
    with spawn_daemon(tmp_path, "fake:a") as first:
        ended = serve_again(tmp_path)
        assert EXIT_ALREADY_RUNNING == ended.returncode
        assert 1 == len(ended.stderr.splitlines())
        assert str(first.pid) in ended.stderr
        assert first.url in ended.stderr
        supervised = serve_again(tmp_path, LMX_SUPERVISOR="launchd")
        assert (0, ended.stderr) == (supervised.returncode, supervised.stderr)
        assert first.is_alive


async def test_the_lock_of_a_killed_daemon_is_taken_over(tmp_path: Path) -> None:
    """At once, although its worker may still be ending; the log says so."""
    async with open_daemon(tmp_path, "fake:a") as first:
        await first.wait_ready()
        assert await wait_until(lambda: worker_processes(first))
        first.kill()
        assert read_lock(tmp_path).is_stale
    async with open_daemon(tmp_path, "fake:a") as second:
        [taken] = second.events("took over the lock of a daemon that died")
        assert first.pid == taken["pid"]
        with trio.fail_after(20):
            assert 0 == await second.stop()
    left = read_lock(tmp_path)
    assert (None, False) == (left.holder, left.is_held)


async def test_a_start_waits_for_a_daemon_that_stops(tmp_path: Path) -> None:
    """A restart need not know how long the last requests take."""
    async with open_daemon(tmp_path, "fake:slow?load_ms=60000") as first:
        first.process.terminate()

        def holder_stops() -> bool:
            holder = read_lock(tmp_path).holder
            return holder is None or holder.is_stopping

        await wait_until(holder_stops)
        same_home = {"LMX_HOME": str(tmp_path)}
        async with open_daemon(tmp_path / "log", "fake:a", settings=same_home) as second:
            assert 0 == await first.wait_exit()
            holder = read_lock(tmp_path).holder
            assert holder is not None
            assert second.pid == holder.pid
