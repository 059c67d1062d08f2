"""Processes a benchmark measures: started, watched and always ended by their process id."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lmx.daemon.spares import worker_environment
from scripts.bench.gguf import Setup

# `python -m scripts.bench...` finds this package from here.
ROOT = Path(__file__).parent.parent.parent
START_TIMEOUT_S = 180.0


class ServerDied(RuntimeError):
    """A server ended, or did not answer in time."""


@dataclass(frozen=True)
class Server:
    """A running HTTP server."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """User and system time of the process itself, without its children."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Resident memory in 10^6 bytes."""
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def lmx_server(
    home: Path, models: Sequence[str], settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """An LMX daemon with these models, ready; `settings` are environment variables."""
    port = free_port()
    arguments = [argument for model in models for argument in ("--model", model)]
    command = [sys.executable, "-m", "lmx", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, **(settings or {}), "LMX_HOME": str(home)}
    with _running([*command, "--log-level", "warning", *arguments], environment) as process:
        _wait_http(process, port, "/readyz")
        yield Server(port, process)


@contextmanager
def mlx_lm_server(model: Path) -> Iterator[Server]:
    """The peer `mlx_lm.server` with the model loaded."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.bench.peer", "--model", str(model)]
    # On CUDA it would end after some hundred shapes of attention; LMX's workers go on, too.
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    }
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"]
    with _running([*command, *arguments], environment) as process:
        _wait_http(process, port, "/health")
        yield Server(port, process)


@contextmanager
def xllamacpp_server(setup: Setup, folder: Path) -> Iterator[Server]:
    """The peer for GGUF, installed in the folder, with the model loaded."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.bench.peer_llama", setup.as_argument()]
    with _running([*command, str(folder.absolute()), str(port)], dict(os.environ)) as process:
        _wait_http(process, port, "/health")
        yield Server(port, process)


class PipedEngine:
    """An engine's own loop behind a pipe."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, prompts: list[str], max_tokens: int) -> dict[str, Any]:
        """Generate for all prompts; returns tokens and seconds."""
        return self.ask({"prompts": prompts, "max_tokens": max_tokens})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            RuntimeError: The process ended instead of answering.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the engine has no pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side of the benchmark ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def piped_engine(
    module: str, *arguments: str, python: str = sys.executable, like_workers: bool = False
) -> Iterator[PipedEngine]:
    """A module of `scripts.bench` in a process of its own; the arguments say which model.

    Args:
        module: Its name.
        arguments: For its command line.
        python: The interpreter, of another environment for a peer.
        like_workers: Give it the environment that LMX gives its workers.
    """
    environment = worker_environment() if like_workers else {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(  # noqa: S603  # our own script
        [python, "-m", f"scripts.bench.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    try:
        yield PipedEngine(process)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[psutil.Process]:
    """A server, stopped at the end; what it said is shown if it did not come up."""
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            yield process
        except ServerDied:
            said.seek(0)
            sys.stderr.write(said.read())
            raise
        finally:
            _stop(process)


def _stop(process: psutil.Process) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_http(process: psutil.Process, port: int, path: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise ServerDied("a server of the benchmark ended instead of coming up")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise ServerDied(f"no answer on port {port} within {START_TIMEOUT_S:g} s")
