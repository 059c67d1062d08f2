"""The command line as people use it: real processes, a real daemon, and a terminal for the chat."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest

from tests.cli_fakes import FakeDaemon, fake_daemon
from tests.daemon_process import REPOSITORY, Daemon, spawn_daemon
from tests.model_folders import write

LIMIT_S = 30.0
# Makes standard input the terminal that Ctrl-C comes from, and becomes the command.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
PULL = ("pull", "org/name")
PREVIEW = "POST /admin/models/download/preview"
PREVIEWED = {"download_id": None, "model_id": "org/name", "estimated_size_human": "4.0 MB"}
CANCEL = "POST /admin/models/download/d1/cancel"
MODEL = "fake:slow?tokens=400&step_ms=25"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with one slow talker."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub")}
    with spawn_daemon(home, MODEL, settings=own) as spawned:
        spawned.wait_ready_blocking()
        yield spawned


def run(
    daemon: Daemon, home: Path, *arguments: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "lmx", *arguments],
        cwd=REPOSITORY,
        env=environment(daemon.url, home) | more,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def environment(url: str, home: Path) -> dict[str, str]:
    """Of a command that knows the daemon."""
    return {**os.environ, "LMX_HOME": str(home), "LMX_URL": url, "TERM": "xterm"}


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, url: str, home: Path, *arguments: str) -> None:
        self._main, other = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, sys.executable, "-m", "lmx", *arguments],
            cwd=REPOSITORY,
            env=environment(url, home),
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self._seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._main, text.encode())

    def wait_for(self, text: str, *, pressing: str = "") -> None:
        """Wait until the screen shows something that it did not show before.

        Args:
            text: What it shows.
            pressing: Keys to press each second until then: one that comes before the program has
                set up its terminal may mean something else.
        """
        press_at_s = time.monotonic()
        deadline_s = press_at_s + LIMIT_S
        while text not in self._seen:
            now_s = time.monotonic()
            assert now_s < deadline_s, f"no {text!r} in {self._seen!r}"
            if now_s >= press_at_s:
                self.type(pressing)
                press_at_s = now_s + 1.0
            self._read(1.0)
        self._seen = self._seen.partition(text)[2]

    def wait_end(self) -> int:
        """The exit status, once it is there."""
        deadline_s = time.monotonic() + LIMIT_S
        while self._process.poll() is None:
            assert time.monotonic() < deadline_s, self._seen
            self._read(0.1)
        return self._process.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(LIMIT_S)
        os.close(self._main)

    def _read(self, wait_s: float) -> None:
        readable, _, _ = select.select([self._main], [], [], wait_s)
        with suppress(OSError):  # Linux says EIO once nobody has the other end
            self._seen += os.read(self._main, 65536).decode() if readable else ""


def test_commands_speak_with_a_real_daemon(daemon: Daemon, tmp_path: Path) -> None:
    """Each reads what the daemon really answers."""
    assert f"address   {daemon.url}" in run(daemon, tmp_path, "status").stdout
    loaded = run(daemon, tmp_path, "load", "fake:other?weight_bytes=2000000", "--json")
    assert "other" == json.loads(loaded.stdout)["model_id"]
    shown = run(daemon, tmp_path, "ps").stdout.splitlines()
    assert ["slow", "other"] == [line.split()[0] for line in shown[1:]]
    assert "other is unloaded" in run(daemon, tmp_path, "unload", "other").stdout
    listed = json.loads(run(daemon, tmp_path, "list", "--json").stdout)
    assert ["slow"] == [row["path"] for row in listed["models"]]
    gone = run(daemon, tmp_path, "show", "nowhere/none")
    assert (5, "") == (gone.returncode, gone.stdout)


def test_help_is_quick(daemon: Daemon, tmp_path: Path) -> None:
    """It imports neither the daemon nor HTTP."""
    code = (
        "import sys, lmx.cli.main\n"
        "heavy = {'trio', 'quart', 'httpx2', 'numpy', 'mlx', 'matplotlib', 'lmx.daemon'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert "[]\n" == process.stdout
    assert "Serve models" in run(daemon, tmp_path, "--help").stdout


def test_ctrl_c_stops_the_answer_and_not_the_program(daemon: Daemon, tmp_path: Path) -> None:
    """Then the next question is answered; twice at the prompt ends it with 130."""
    terminal = Terminal(daemon.url, tmp_path, "chat")
    try:
        for question in ("first", '"""two\nlines"""'):
            terminal.wait_for(">>> ")
            terminal.type(question + "\n")
            terminal.wait_for("slate")  # one of the fake model's words
            terminal.type("\x03")
            terminal.wait_for("(stopped)")
        terminal.wait_for(">>> ")
        terminal.type("/nonsense\n")
        terminal.wait_for("there is no /nonsense")
        terminal.wait_for(">>> ")
        terminal.type("\x03")
        terminal.wait_for("once more")
        terminal.wait_for(">>> ")
        terminal.type("\x03")
        assert 130 == terminal.wait_end()
    finally:
        terminal.close()
    assert "first" in (tmp_path / "history").read_text()


def test_ctrl_c_leaves_a_download_to_the_daemon(tmp_path: Path) -> None:
    """The command asks, watches, and says how to watch on; the daemon is told nothing."""
    with downloading_daemon() as fake, closing(Terminal(fake.url, tmp_path, *PULL)) as terminal:
        terminal.wait_for("Download org/name, 4.0 MB? [y/N]")
        terminal.type("y\n")
        terminal.wait_for("1.0/4.0 MB")
        terminal.type("\x03")
        terminal.wait_for("goes on in the daemon; `lmx pull org/name` watches it again")
        assert 130 == terminal.wait_end()
        assert [] == fake.bodies(CANCEL)


@pytest.mark.parametrize(
    ("answer", "said", "status"),
    [
        ("\n", "nothing was downloaded", 1),
        ("\x04", "nothing was downloaded", 1),
        ("\x03", "nothing was done", 130),
    ],
)
def test_a_download_that_nobody_wants_never_begins(
    tmp_path: Path, answer: str, said: str, status: int
) -> None:
    """Anything but yes is no: an empty line, Ctrl-D, and Ctrl-C."""
    with downloading_daemon() as fake, closing(Terminal(fake.url, tmp_path, *PULL)) as terminal:
        terminal.wait_for("[y/N]")
        terminal.wait_for(said, pressing=answer)
        assert status == terminal.wait_end()
        assert ["/admin/models/download/preview"] == [asked.path for asked in fake.asked]


def test_a_download_that_others_began_needs_no_question(tmp_path: Path) -> None:
    """It is watched, and cannot be ended by saying no."""
    with downloading_daemon() as fake:
        fake.answers[PREVIEW] = PREVIEWED | {"download_id": "d1"}
        with closing(Terminal(fake.url, tmp_path, *PULL)) as terminal:
            terminal.wait_for("1.0/4.0 MB")
            terminal.type("\x03")
            assert 130 == terminal.wait_end()
        assert [] == fake.bodies(CANCEL)


def test_ctrl_c_leaves_a_load_to_the_daemon(tmp_path: Path) -> None:
    """The command says so and ends with 130, whatever the daemon does then."""
    may_end = Event()
    with fake_daemon() as fake:
        fake.answers["POST /admin/models/load"] = lambda _: {"status": may_end.wait(LIMIT_S)}
        with closing(Terminal(fake.url, tmp_path, "load", "big")) as terminal:
            terminal.wait_for("loading big")
            terminal.type("\x03")
            terminal.wait_for("The load goes on; `lmx ps` shows it")
            assert 130 == terminal.wait_end()
        may_end.set()


@contextmanager
def downloading_daemon() -> Iterator[FakeDaemon]:
    """A daemon whose download takes for ever."""
    row = {
        "download_id": "d1",
        "repo_id": "org/name",
        "status": "downloading",
        "progress_percent": 25.0,
        "downloaded_bytes": 1_000_000,
        "total_bytes": 4_000_000,
    }
    with fake_daemon() as fake:
        fake.answers = {
            PREVIEW: PREVIEWED,
            "POST /admin/models/download": row,
            "GET /admin/models/download/d1/progress": row,
            CANCEL: row,
        }
        yield fake


def test_a_bench_measures_what_was_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    """Rows for each prompt and number of streams, bars on the terminal, and a PNG on request."""
    asked = ("bench", "slow", "--tokens", "4", "--streams", "1,2", "--prompts", "8,32")
    png = tmp_path / "speed.png"
    outcome = run(daemon, tmp_path, *asked, "--json", "--png", str(png))
    assert 0 == outcome.returncode, outcome.stderr
    document = json.loads(outcome.stdout)
    assert ("slow", "fake", 4) == (document["model"], document["backend"], document["tokens"])
    assert [1, 2] == [row["streams"] for row in document["by_streams"]]
    short, long = document["by_prompt"]
    assert short["prompt_tokens"] < long["prompt_tokens"]
    # A token each 25 ms, so that four take 75 ms after the first.
    assert all(5 < row["stream_tps"] < 60 for row in document["by_streams"])
    assert b"\x89PNG" == png.read_bytes()[:4]
    shown = run(daemon, tmp_path, *asked).stdout
    assert "█" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_a_bench_that_cannot_be_says_why(daemon: Daemon, tmp_path: Path) -> None:
    """Numbers that are none, a model that is not loaded, plots without matplotlib."""
    assert 2 == run(daemon, tmp_path, "bench", "--streams", "1,many").returncode
    assert 5 == run(daemon, tmp_path, "bench", "other").returncode
    write(tmp_path / "site" / "matplotlib" / "__init__.py", "raise ImportError")
    asked = ("bench", "--tokens", "2", "--streams", "1", "--prompts", "4", "--png", "a.png")
    outcome = run(daemon, tmp_path, *asked, PYTHONPATH=str(tmp_path / "site"))
    assert 1 == outcome.returncode
    assert "pip install 'opta-lmx[plot]'" in outcome.stderr


def test_logs_are_followed(daemon: Daemon, tmp_path: Path) -> None:
    """The last lines at once, and each new one as it comes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lmx", "logs", "-f", "-n", "1000", "--json"],
        cwd=REPOSITORY,
        env=environment(daemon.url, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        assert any(json.loads(line)["event"] == "listening" for line in lines)
        run(daemon, tmp_path, "load", "fake:logged")
        assert any("logged" in line for line in lines)
        process.send_signal(signal.SIGINT)
        assert 130 == process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()
        run(daemon, tmp_path, "unload", "logged")


def test_no_log_at_all(daemon: Daemon, tmp_path: Path) -> None:
    """Status 3: neither a daemon nor a file."""
    outcome = run(
        daemon, tmp_path, "logs", LMX_URL="http://127.0.0.1:9", LMX_LOGGING__FILE="no.log"
    )
    assert (3, True) == (outcome.returncode, "there is no log file" in outcome.stderr)


def test_model_ids_are_completed(daemon: Daemon, tmp_path: Path) -> None:
    """What the shell asks after a tab; without a daemon the answer is quick and empty."""
    asked = {
        "_LMX_COMPLETE": "complete_bash",
        "COMP_WORDS": "lmx unload s",
        "COMP_CWORD": "2",
    }
    assert ["slow"] == complete(daemon, tmp_path, asked)
    assert [] == complete(daemon, tmp_path, asked | {"LMX_URL": "http://127.0.0.1:9"})


def complete(daemon: Daemon, home: Path, asked: Mapping[str, str]) -> list[str]:
    """What is offered."""
    process = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'lmx'; from lmx.cli import main; main()"],
        cwd=REPOSITORY,
        env=environment(daemon.url, home) | dict(asked),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return process.stdout.split()


def test_a_pipe_that_closes_ends_the_command_quietly(daemon: Daemon, tmp_path: Path) -> None:
    """As with `lmx chat | head`: no traceback, and the daemon stops the answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lmx", "chat", "hi"],
        cwd=REPOSITORY,
        env=environment(daemon.url, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(3)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(LIMIT_S) != -signal.SIGKILL
