"""``python -m opta_lmx.main``: what the Opta CLI does before it starts LMX, and what it starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.daemon_process import HOST, REPOSITORY

# What the CLI waits for.
IMPORT_LIMIT_S = 4.0
HELP_LIMIT_S = 6.0


def test_importing_is_quick_and_starts_nothing() -> None:
    """The CLI imports it to see whether LMX is installed."""
    begun_s = time.monotonic()
    program = "import opta_lmx.main, sys; print('trio' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - begun_s < IMPORT_LIMIT_S
    assert "False" == ended.stdout.strip()


@pytest.mark.parametrize("module", ["opta_lmx", "opta_lmx.main"])
def test_help_is_quick(module: str) -> None:
    """It names the arguments that the CLI gives."""
    begun_s = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - begun_s < HELP_LIMIT_S
    for option in ("--config", "--host", "--port", "--log-level"):
        assert option in ended.stdout


def test_it_serves_as_the_cli_starts_it_and_keeps_its_name(tmp_path: Path) -> None:
    """Found by its command line, told to stop by a signal, and gone with status 0."""
    config = tmp_path / "settings.yaml"
    config.write_text("models: {load: ['fake:x']}\n")
    command = [sys.executable, "-m", "opta_lmx.main", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--host", HOST, "--port", "0", "--log-level", "info"],
        cwd=REPOSITORY,
        env={**os.environ, "LMX_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        events = (json.loads(line)["event"] for line in process.stderr)
        assert "listening" in events
        assert "-m opta_lmx.main" in " ".join(psutil.Process(process.pid).cmdline())
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert 0 == process.wait(20)
    finally:
        process.kill()
        process.wait(5)
