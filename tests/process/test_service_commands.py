"""`lmx service` against programs on ``PATH`` that record how they are called."""

import json
import os
import plistlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lmx.cli.main import app

# They keep what is loaded in a file, and refuse a service that is to listen on port 9999.
LAUNCHCTL = """#!/bin/sh
echo "launchctl $*" >> "$STATE/calls"
case "$1" in
bootstrap)
    if grep -q 9999 "$3"; then echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; fi
    cp "$3" "$STATE/loaded"; echo 4242 > "$STATE/pid" ;;
bootout) rm -f "$STATE/loaded" "$STATE/pid" ;;
kickstart) echo 4243 > "$STATE/pid" ;;
kill) rm -f "$STATE/pid" ;;
print)
    [ -e "$STATE/loaded" ] || { echo "Could not find service" >&2; exit 113; }
    echo "com.opta.lmx = {"; echo "	state = fine"; echo "	last exit code = 0"
    if [ -e "$STATE/pid" ]; then echo "	pid = $(cat "$STATE/pid")"; fi ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> "$STATE/calls"
unit="$HOME/.config/systemd/user/opta-lmx.service"
case "$*" in
*restart*|*" start "*)
    if grep -q 9999 "$unit"; then echo "Job failed" >&2; exit 1; fi
    cp "$unit" "$STATE/loaded"; echo 4242 > "$STATE/pid" ;;
*"disable --now"*) rm -f "$STATE/loaded" "$STATE/pid" ;;
*" stop "*) rm -f "$STATE/pid" ;;
*show*)
    if [ -e "$STATE/loaded" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    echo ActiveState=active; echo SubState=running; echo ExecMainStatus=0
    echo "MainPID=$(cat "$STATE/pid" 2>/dev/null || echo 0)" ;;
esac
"""
PLUTIL = '#!/bin/sh\necho "plutil $1" >> "$STATE/calls"\n'
ANALYZE = '#!/bin/sh\necho "systemd-analyze $1 $2" >> "$STATE/calls"\n'
JOURNALCTL = '#!/bin/sh\necho "journalctl $*" >> "$STATE/calls"\necho one\necho two\n'


class System:
    """A machine with a service manager, as far as `lmx service` sees it."""

    def __init__(self, root: Path, manager: str) -> None:
        self.home = root
        self.programs = root / "bin"
        self.programs.mkdir()
        self.environment = {
            "HOME": str(root),
            "STATE": str(root),
            "LMX_HOME": str(root / "lmx"),
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "LMX_SERVICE_MANAGER": manager,
        }

    def add(self, name: str, text: str) -> None:
        """Put a program on ``PATH``."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *words: str) -> Result:
        """`lmx service ...`."""
        return CliRunner().invoke(app, ["service", *words], env=self.environment)

    def ask(self, *words: str) -> Any:
        """The document of `lmx service ... --json`."""
        result = self.run(*words, "--json")
        return json.loads(result.stdout)

    def install(self, *words: str) -> Result:
        """Without waiting for a daemon, for there is none."""
        return self.run("install", "--wait", "0", *words)

    @property
    def calls(self) -> list[str]:
        """What was run since this was asked last."""
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def plist(self) -> Path:
        """Where an agent's property list belongs."""
        return self.home / "Library/LaunchAgents/com.opta.lmx.plist"

    @property
    def unit(self) -> Path:
        """Where a user's unit belongs."""
        return self.home / ".config/systemd/user/opta-lmx.service"


@pytest.fixture
def mac(tmp_path: Path) -> System:
    """One with launchd."""
    system = System(tmp_path, "launchd")
    system.add("launchctl", LAUNCHCTL)
    system.add("plutil", PLUTIL)
    return system


@pytest.fixture
def linux(tmp_path: Path) -> System:
    """One with systemd."""
    system = System(tmp_path, "systemd")
    system.add("systemctl", SYSTEMCTL)
    system.add("systemd-analyze", ANALYZE)
    system.add("journalctl", JOURNALCTL)
    return system


@pytest.fixture
def answering_port() -> Iterator[int]:
    """Somebody answers every GET there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_installing_an_agent_says_what_it_does(mac: System, answering_port: int) -> None:
    """The file is checked, written, enabled and bootstrapped, and the daemon is heard of."""
    result = mac.run("install", "--port", str(answering_port))
    assert 0 == result.exit_code, result.output
    domain = f"gui/{os.getuid()}"
    target = f"{domain}/com.opta.lmx"
    assert [
        f"launchctl print {target}",
        "plutil -lint",
        f"launchctl enable {target}",
        f"launchctl bootstrap {domain} {mac.plist}",
    ] == mac.calls
    words = plistlib.loads(mac.plist.read_bytes())["ProgramArguments"]
    assert ["-m", "opta_lmx.main", "--port", str(answering_port)] == words[1:]
    assert 0o644 == mac.plist.stat().st_mode & 0o777
    assert f"{mac.plist} is written" in result.stdout
    assert f"the daemon answers at http://127.0.0.1:{answering_port}" in result.stdout
    assert (mac.home / "lmx").is_dir()
    assert [mac.plist] == list(mac.plist.parent.iterdir())


def test_installing_again_changes_nothing(mac: System) -> None:
    """The same file of a service that runs; another one replaces it."""
    assert 0 == mac.install("--port", "1").exit_code
    mac.calls  # noqa: B018  # forgets them
    again = mac.ask("install", "--wait", "0", "--port", "1")
    assert (False, False) == (again["changed"], again["answers"])
    assert 1 == len(mac.calls)
    assert 0 == mac.install("--port", "2").exit_code
    verbs = [call.split()[1] for call in mac.calls]
    assert ["print", "-lint", "bootout", "print", "enable", "bootstrap"] == verbs
    assert "2" == plistlib.loads((mac.home / "loaded").read_bytes())["ProgramArguments"][-1]


@pytest.mark.parametrize("is_new", [True, False])
def test_what_cannot_be_loaded_leaves_everything_as_it_was(mac: System, *, is_new: bool) -> None:
    """The old service runs again from its old file; where there was none, there is none."""
    if not is_new:
        assert 0 == mac.install("--port", "1").exit_code
    before = None if is_new else mac.plist.read_bytes()
    result = mac.install("--port", "9999")
    assert 1 == result.exit_code
    assert "Bootstrap failed: 5" in result.stderr
    assert "What was there before is back" in result.stderr
    assert before == (mac.plist.read_bytes() if mac.plist.exists() else None)
    assert (not is_new) == (mac.home / "loaded").exists()


def test_the_life_of_an_agent(mac: System) -> None:
    """Status, stop, start, logs and the end; what LMX keeps stays."""
    assert 3 == mac.run("status").exit_code
    assert 5 == mac.run("start").exit_code
    assert 0 == mac.install().exit_code
    assert (True, 4242, 0) == tuple(
        mac.ask("status")[key] for key in ("is_running", "pid", "last_exit")
    )
    mac.calls  # noqa: B018
    assert 0 == mac.run("stop").exit_code
    assert f"launchctl kill SIGTERM gui/{os.getuid()}/com.opta.lmx" in mac.calls
    assert 3 == mac.run("status").exit_code
    assert 0 == mac.run("start").exit_code
    assert 4243 == mac.ask("status")["pid"]
    assert 0 == mac.run("uninstall").exit_code
    assert not mac.plist.exists()
    assert (mac.home / "lmx").is_dir()
    again = mac.ask("uninstall")
    assert (False, ["the service is not installed; nothing to do"]) == (
        again["changed"],
        again["steps"],
    )


def test_an_agents_logs_are_found_by_its_file(mac: System) -> None:
    """The last lines of each file that it names."""
    assert 1 == mac.run("logs").exit_code
    assert 0 == mac.install().exit_code
    plist = plistlib.loads(mac.plist.read_bytes())
    for key in ("StandardOutPath", "StandardErrorPath"):
        plist[key] = str(mac.home / key)
    plist["EnvironmentVariables"]["LMX_LOGGING__FILE"] = str(mac.home / "log")
    mac.plist.write_bytes(plistlib.dumps(plist))
    assert 1 == mac.run("logs").exit_code
    (mac.home / "log").write_text("one\ntwo\nthree\nfo")
    (mac.home / "StandardErrorPath").write_text("oops\n")
    assert ["oops", "two", "three"] == mac.run("logs", "-n", "2").stdout.splitlines()


def test_a_users_unit_in_systemd(linux: System) -> None:
    """Verified, enabled, started; stopped, shown, removed."""
    shown = "LoadState,ActiveState,SubState,MainPID,ExecMainStatus"
    result = linux.install("--port", "8080")
    assert 0 == result.exit_code, result.output
    assert [
        f"systemctl --user show opta-lmx.service --property={shown}",
        "systemd-analyze --user verify",
        "systemctl --user daemon-reload",
        "systemctl --user enable opta-lmx.service",
        "systemctl --user restart opta-lmx.service",
    ] == linux.calls
    assert "--port 8080" in linux.unit.read_text()
    assert 4242 == linux.ask("status")["pid"]
    assert ["one", "two"] == linux.run("logs").stdout.splitlines()
    assert 0 == linux.run("stop").exit_code
    assert 3 == linux.run("status").exit_code
    assert 0 == linux.run("start").exit_code
    failed = linux.install("--port", "9999")
    assert 1 == failed.exit_code
    assert "journalctl --user -u opta-lmx.service" in failed.stderr
    assert "--port 8080" in linux.unit.read_text()
    assert linux.ask("status")["is_running"]
    assert 0 == linux.run("uninstall").exit_code
    assert not linux.unit.exists()


@pytest.mark.parametrize("manager", ["launchd", "systemd"])
def test_a_machine_without_the_manager_is_told(tmp_path: Path, manager: str) -> None:
    """What is missing, and what else would do."""
    system = System(tmp_path, manager)
    system.environment["PATH"] = str(system.programs)
    for words in (["install", "--wait", "0"], ["uninstall"], ["start"], ["stop"], ["status"]):
        result = system.run(*words)
        assert 1 == result.exit_code
        assert "is not on PATH" in result.stderr
        assert "lmx serve" in result.stderr


def test_dry_runs_only_print(mac: System) -> None:
    """The file, to be looked at or put elsewhere."""
    shown = mac.run("install", "--dry-run", "--port", "8080")
    assert 0 == shown.exit_code
    assert "8080" == plistlib.loads(shown.stdout.encode())["ProgramArguments"][-1]
    assert shown.stdout == mac.ask("install", "--dry-run", "--port", "8080")["content"]
    assert [] == mac.calls
    assert not mac.plist.exists()


def test_refusals_say_what_to_do(mac: System) -> None:
    """A user without --system, one that is not there, options that are none, bad settings."""
    for words, status, said in (
        (["install", "--user", "x"], 2, "--system"),
        (["install", "--bogus"], 2, "--bogus"),
        (["install", "--config", "/nowhere.yaml"], 78, "/nowhere.yaml"),
    ):
        result = mac.run(*words)
        assert (status, True) == (result.exit_code, said in result.stderr), result.stderr
    if os.geteuid() == 0:
        mac.environment["SUDO_USER"] = ""
        assert "--user NAME" in mac.run("install", "--system").stderr
        missing = mac.run("install", "--system", "--user", "nobody-here").stderr
        assert "--user" in missing
        assert "make one" in missing
    else:
        assert "sudo" in mac.run("install", "--system").stderr
    assert [] == mac.calls


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("scope", [[], ["--user"]], ids=["system", "user"])
def test_systemd_finds_the_unit_in_order(linux: System, scope: list[str]) -> None:
    """Without a word of complaint, with odd words in it too."""
    shown = linux.run("install", "--dry-run", "--model", 'fake:a b$%"')
    unit = linux.home / "opta-lmx.service"
    text = shown.stdout
    if not scope:
        text = text.replace("[Install]", "User=root\nProtectSystem=full\nPrivateTmp=yes\n[Install]")
    unit.write_text(text)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(linux.home)}
    ended = subprocess.run(
        [shutil.which("systemd-analyze") or "", *scope, "verify", str(unit)],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=30,
    )
    ours = [line for line in ended.stderr.splitlines() if "opta-lmx" in line]
    assert (0, []) == (ended.returncode, ours), ended.stderr
