"""Programs that stand in for those which the documentation's examples must not run for real.

A test's sandbox has them first on its path. ``scripts/serve`` serves for a moment on a port of its
own; commands that belong to the system do nothing; a program of this repository that takes minutes
is asked whether it knows the options that the example gives it.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import typer

from lmx.cli.main import app
from tests.daemon_process import REPOSITORY

RUNNING = "LoadState=loaded\\nActiveState=active\\nSubState=running\\nMainPID=1\\n"
# Programs of the system, and what they do instead.
SYSTEM = {
    "apt-get": "",
    "brew": "",
    "journalctl": "",
    "launchctl": "",
    "loginctl": "",
    "pip": "",
    "sudo": "",
    "systemctl": f"printf '{RUNNING}'",
    "systemd-analyze": "",
    "xcode-select": "",
}
# Models that are at hand wherever the tests run.
AT_HAND = re.compile(r"demo|embedder|fake:.*")
START_LIMIT_S = 60
CALL = """#!{python}
import sys
from tests.doc_shims import main
sys.exit(main({program!r}))
"""


def make_sandbox(folder: Path) -> Path:
    """A folder to run examples in.

    Args:
        folder: An empty one.

    Returns:
        What belongs first on the path.
    """
    programs = folder / "bin"
    scripts = folder / "scripts"
    for made in (programs, scripts / "bench", folder / "user"):
        made.mkdir(parents=True)
    for name, command in SYSTEM.items():
        _write(programs / name, f"#!/bin/sh\n{command}\n")
    for name in ("lmx", "python"):
        _write(programs / name, _call(name))
    for script in [*(REPOSITORY / "scripts").iterdir(), *(REPOSITORY / "scripts/bench").iterdir()]:
        if os.access(script, os.X_OK) and script.is_file():
            place = script.relative_to(REPOSITORY)
            _write(folder / place, _call(str(place)))
    return programs


def _call(program: str) -> str:
    return CALL.format(python=sys.executable, program=program)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def serve(arguments: list[str]) -> int:
    """Serve for a moment, if the models are at hand; else see that the options are right."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    models = command.make_context("serve", list(arguments)).params["model"] or ["demo"]
    if not all(map(AT_HAND.fullmatch, models)):
        return 0
    settings = {**os.environ, "LMX_HOME": os.environ["HOME"] + "/served"}
    wanted = [*arguments, "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lmx", "serve", *wanted], stderr=subprocess.PIPE, env=settings
    )
    assert process.stderr is not None
    signal.alarm(START_LIMIT_S)
    is_up = any(b"listening" in line for line in process.stderr)
    process.terminate()
    process.stderr.read()
    return process.wait() if is_up else 1


def look_at(program: list[str], arguments: list[str]) -> int:
    """See that a Python program of this repository knows the options it is given."""
    asked = [sys.executable, *program, "--help"]
    told = subprocess.run(asked, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    known = set(re.findall(r"--[\w-]+", told))
    unknown = [option for option in arguments if option.startswith("--") and option not in known]
    if unknown:
        sys.stderr.write(f"{program[-1]} does not know {unknown}\n")
    return len(unknown)


def python(arguments: list[str]) -> int:
    """Python itself, less what takes minutes."""
    match arguments:
        case ["-m", module, *rest] if module.startswith("scripts."):
            return look_at(["-m", module], rest)
        case [path, *rest] if path.startswith("scripts/"):
            return look_at([path], rest)
        case _:
            return subprocess.run([sys.executable, *arguments], check=False).returncode


def main(program: str) -> int:
    """Do what stands in for a program, with the arguments of this process."""
    arguments = sys.argv[1:]
    match program:
        case "python":
            return python(arguments)
        case "scripts/serve":
            return serve(arguments)
        case "lmx" if arguments[:1] == ["serve"]:
            return serve(arguments[1:])
        case "lmx":
            return subprocess.run([sys.executable, "-m", "lmx", *arguments], check=False).returncode
        case _ if program.endswith(".py"):
            return look_at([program], arguments)
        case _:
            path = str(REPOSITORY / program)
            return subprocess.run(["/bin/bash", "-n", path], check=False).returncode
