"""Starting: what cannot work is told at once, with the exit status for bad configuration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_process import HOST, REPOSITORY, spawn_daemon

EXIT_CONFIG = 78


def _serve(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lmx", "serve", "--host", HOST, *arguments],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "LMX_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LMX_SERVER__DRAIN_S", "long", "server.drain_s"),
        ("LMX_MODELS__MAX_SEQUENCES", "0", "models.max_sequences"),
        ("LMX_MODELS__DIALECTS", "{x: klingon}", "klingon"),
        ("LMX_MODELS__BACKEND", "cuda", "models.backend"),
        ("LMX_LOGGING__LEVEL", "loud", "logging.level"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, variable: str, value: str, said: str) -> None:
    """One line on standard error names the setting, and the status is 78."""
    ended = _serve(tmp_path, "--port", "0", **{variable: value})
    assert EXIT_CONFIG == ended.returncode
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    """What the command line says wrongly is told like a setting."""
    ended = _serve(tmp_path, "--port", "0", "--backend", "cuda")
    assert EXIT_CONFIG == ended.returncode
    assert "models.backend" in ended.stderr


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    """The message holds the file's path."""
    file = tmp_path / "settings.yaml"
    file.write_text("server: [1, 2]")
    ended = _serve(tmp_path, "--port", "0", "--config", str(file))
    assert EXIT_CONFIG == ended.returncode
    assert str(file) in ended.stderr


def test_a_taken_port_is_told_at_once(tmp_path: Path) -> None:
    """A second daemon on the same port ends with the address in its message."""
    with spawn_daemon(tmp_path / "first", "fake:a") as first:
        ended = _serve(tmp_path / "second", "--port", str(first.port), "--model", "fake:b")
    assert EXIT_CONFIG == ended.returncode
    assert str(first.port) in ended.stderr
    assert "Traceback" not in ended.stderr
