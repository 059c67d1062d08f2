"""Log lines: the level may change while loggers are in use, and tracebacks show no values."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from lmx.cli.logs import Blotter, LogLevel
from lmx.cli.service.saying import read_files

SCRIPT = """
import structlog
from lmx.cli.logs import open_log
from lmx.config import LoggingSettings
from lmx.daemon.log_tail import LogTail
control = open_log(LoggingSettings(), LogTail()).__enter__()
level = control.level
log = structlog.get_logger("x")
def say(name):
    log.debug("debug", at=name)
    log.info("info", at=name)
    log.error("error", at=name)
say("first")
level.set("debug")
say("second")
level.set("error")
say("third")
"""
TERMINAL_SCRIPT = """
import sys
sys.stderr.isatty = lambda: True
import structlog
from lmx.cli.logs import open_log
from lmx.config import LoggingSettings
from lmx.daemon.log_tail import LogTail
open_log(LoggingSettings(), LogTail()).__enter__()
def fail(admin_key):
    raise ValueError("no")
try:
    fail("sec" + "ret")
except ValueError as error:
    structlog.get_logger("x").error("failed", exc_info=error)
"""


def run(script: str) -> str:
    """What a process of its own logs, because logging is configured once per process."""
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return ended.stderr


def test_the_level_changes_for_loggers_in_use() -> None:
    """The same logger writes more, then less."""
    lines = [json.loads(line) for line in io.StringIO(run(SCRIPT))]
    assert [
        ("info", "first"),
        ("error", "first"),
        ("debug", "second"),
        ("info", "second"),
        ("error", "second"),
        ("error", "third"),
    ] == [(line["level"], line["at"]) for line in lines]


def test_tracebacks_on_a_terminal_show_no_variables() -> None:
    """They could hold keys, prompts and answers."""
    shown = run(TERMINAL_SCRIPT)
    assert "ValueError: no" in shown
    assert "secret" not in shown


def test_less_severe_lines_are_dropped() -> None:
    """As a processor, before anything is formatted."""
    level = LogLevel("warning")
    assert {"a": 1} == level(None, "warning", {"a": 1})
    assert {"a": 1} == level(None, "critical", {"a": 1})
    with pytest.raises(structlog.DropEvent):
        level(None, "info", {"a": 1})


def test_keys_are_blotted_out_wherever_they_stand() -> None:
    """In texts, lists and mappings; short ones are words, and are left."""
    blotter = Blotter()
    assert {"a": "x"} == blotter(None, "info", {"a": "x"})
    blotter.keys = lambda: ["", "abc", "long-key", "longer-key"]
    line = {"event": "abc long-key!", "n": 1, "deep": [{"longer-key": ("a long-key", None)}]}
    assert {
        "event": "abc [key]!",
        "n": 1,
        "deep": [{"[key]": ["a [key]", None]}],
    } == blotter(None, "info", line)


def test_the_format_can_be_chosen() -> None:
    """Text without colours where there is no terminal."""
    text = run(SCRIPT.replace("LoggingSettings()", 'LoggingSettings(format="text")'))
    assert "first" in text.splitlines()[0]
    assert "\x1b" not in text
    assert "{" not in text


def test_only_the_end_of_a_long_file_is_looked_through(tmp_path: Path) -> None:
    """What replaces it is read whole, and the last lines of the old one are not lost."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    lines = read_files([path], 10, follow=True, tail_bytes=10)
    assert ["two", "three"] == [next(lines), next(lines)]
    with path.open("a") as old:
        path.rename(tmp_path / "log.1")
        old.write("four\n")
    path.write_text("five\nsix\n")
    assert ["four", "five", "six"] == [next(lines) for _ in range(3)]
