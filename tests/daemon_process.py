"""A real daemon as a child process: what every test above the unit level talks to.

The daemon listens on a free port of 127.0.0.1, keeps its state in the test's own home directory
and dies with the test, whatever the test does. Its standard error goes to a file in that home, so
nobody has to read a pipe; the helper learns the address from the ``listening`` line in it.

    async with open_daemon(tmp_path, "fake:x?tokens=8") as daemon:
        await daemon.wait_ready()
        ...
        assert 0 == await daemon.stop()

`spawn_daemon` is the same for synchronous fixtures of module scope. There is no mock in here.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

REPOSITORY = Path(__file__).parent.parent
HOST = "127.0.0.1"
LOG_NAME = "daemon.log"
# Requests made by hand call the daemon `lmx`, which is not this machine's name.
# No test asks a hub but its own: this address refuses at once.
OWN_SETTINGS = {"LMX_SECURITY__ALLOWED_HOSTS": "[lmx]", "HF_ENDPOINT": "http://127.0.0.1:9"}
# A loaded machine with two cores; a healthy daemon needs about one second.
START_LIMIT_S = 20.0
READY_LIMIT_S = 20.0
STOP_LIMIT_S = 15.0
POLL_S = 0.02


class DaemonFailed(Exception):
    """The daemon did not do what was waited for; the message holds the end of its log."""


class Daemon:
    """A running daemon.

    Attributes:
        process: The child. Its standard error is `log_path`.
        url: Where it answers, such as ``http://127.0.0.1:41234``.
        host: The host part of `url`.
        port: The port part of `url`.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path, url: str) -> None:
        self.process = process
        self.log_path = log_path
        self.url = url
        parts = urlsplit(url)
        self.host = parts.hostname or HOST
        self.port = parts.port or 0

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def log_lines(self) -> list[dict[str, Any]]:
        """What the daemon logged so far; a line that is no JSON comes as ``{"text": line}``."""
        return _read_log(self.log_path)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.log_lines() if line.get("event") == event]

    def get_json(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, Any]:
        """One blocking ``GET`` on a connection of its own: status and decoded body."""
        connection = HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"connection": "close"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    async def wait_ready(self, *, limit_s: float = READY_LIMIT_S) -> None:
        """Wait until ``/readyz`` answers 200.

        Raises:
            DaemonFailed: It did not within `limit_s`, or the daemon ended.
        """
        wait = partial(self.wait_ready_blocking, limit_s=limit_s)
        await trio.to_thread.run_sync(wait, abandon_on_cancel=True)

    def wait_ready_blocking(self, *, limit_s: float = READY_LIMIT_S) -> None:
        """`wait_ready` for synchronous fixtures."""
        deadline_s = time.monotonic() + limit_s
        while not self._is_ready():
            if not self.is_alive or time.monotonic() > deadline_s:
                raise DaemonFailed(f"not ready within {limit_s} s\n{_log_tail(self.log_path)}")
            time.sleep(POLL_S)

    async def stop(self, *, signal_number: int = signal.SIGTERM) -> int:
        """Ask the daemon to end and give its exit status.

        Raises:
            DaemonFailed: It still ran after `STOP_LIMIT_S`.
        """
        self.process.send_signal(signal_number)
        return await self.wait_exit()

    async def wait_exit(self, *, limit_s: float = STOP_LIMIT_S) -> int:
        """Wait for the daemon's end and give its exit status; negative is a signal.

        Raises:
            DaemonFailed: It still ran after `limit_s`.
        """
        wait = partial(self.process.wait, limit_s)
        try:
            return await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        except subprocess.TimeoutExpired as error:
            raise DaemonFailed(f"runs on after {limit_s} s\n{_log_tail(self.log_path)}") from error

    def kill(self) -> None:
        """End it now and reap it. Its workers end with their pipes."""
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)

    def _is_ready(self) -> bool:
        with suppress(OSError):
            return self.get_json("/readyz")[0] == 200
        return False


@contextmanager
def spawn_daemon(
    home: Path, *models: str, settings: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """A daemon for synchronous code, such as a fixture of module scope.

    Args:
        home: Its ``LMX_HOME``; created if missing.
        models: What to load at start, in the forms ``--model`` takes; at least one.
        settings: Environment on top of ours, such as ``{"LMX_SERVER__HEARTBEAT_S": "0.1"}``.

    Raises:
        DaemonFailed: It did not listen within `START_LIMIT_S`.
    """
    process, log_path = _start(home, models, settings or {})
    try:
        yield Daemon(process, log_path, _wait_url(process, log_path))
    finally:
        _end(process)


@asynccontextmanager
async def open_daemon(
    home: Path, *models: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Daemon]:
    """A daemon that listens but whose models may still load; see `spawn_daemon`."""
    process, log_path = _start(home, models, settings or {})
    try:
        wait = partial(_wait_url, process, log_path)
        url = await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        yield Daemon(process, log_path, url)
    finally:
        _end(process)


def _start(
    home: Path, models: tuple[str, ...], settings: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", Path]:
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / LOG_NAME
    inherited = {
        name: v for name, v in os.environ.items() if not name.startswith(("LMX_", "OPTA_LMX_"))
    }
    chosen = [argument for model in models for argument in ("--model", model)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lmx", "serve", "--host", HOST, "--port", "0", *chosen],
            cwd=REPOSITORY,
            env={**inherited, **OWN_SETTINGS, "LMX_HOME": str(home), **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, log_path


def _wait_url(process: "subprocess.Popen[bytes]", log_path: Path) -> str:
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        for line in _read_log(log_path):
            if line.get("event") == "listening":
                return str(line["urls"][0])
        if process.poll() is not None:
            raise DaemonFailed(f"ended with {process.returncode}\n{_log_tail(log_path)}")
        if time.monotonic() > deadline_s:
            raise DaemonFailed(f"not listening in {START_LIMIT_S} s\n{_log_tail(log_path)}")
        time.sleep(POLL_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it if it still runs. A worker ends when its daemon's end of the pipe closes."""
    if process.poll() is None:
        process.kill()
        process.wait(STOP_LIMIT_S)


def _read_log(log_path: Path) -> list[dict[str, Any]]:
    """The whole lines of the log; the last one may still be under way."""
    *whole, _ = log_path.read_bytes().split(b"\n")
    return [_parse_line(line) for line in whole if line]


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"text": line.decode("utf-8", "replace")}


def _log_tail(log_path: Path) -> str:
    return log_path.read_text("utf-8", "replace")[-4000:]
