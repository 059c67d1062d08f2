"""Files of services: every key that launchd and systemd need, and what must not be in them."""

import plistlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx.cli.exits import CommandFailed
from lmx.cli.service.job import EXAMPLE, Job, parse_serve_arguments
from lmx.cli.service.launchd import render_plist
from lmx.cli.service.systemd import render_unit

REPOSITORY = Path(__file__).parent.parent.parent
TMP = "/tmp"  # noqa: S108  # the documented place
JOB = msgspec.structs.replace(EXAMPLE, arguments=("--port", "8080"))


def plist(job: Job) -> dict[str, Any]:
    """What launchd reads."""
    read: dict[str, Any] = plistlib.loads(render_plist(job))
    return read


def unit_lines(job: Job) -> list[str]:
    """What systemd reads."""
    return render_unit(job).decode().splitlines()


def test_the_property_list_has_every_key() -> None:
    """An agent: started at login, again after a crash, and not after a stop."""
    assert {
        "Label": "com.opta.lmx",
        "ProgramArguments": [EXAMPLE.python, "-m", "opta_lmx.main", "--port", "8080"],
        "EnvironmentVariables": {
            "HOME": "/Users/you",
            "PATH": "/Users/you/lmx/.venv/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin"
            ":/usr/sbin:/sbin",
            "LMX_HOME": "/Users/you/.opta-lmx",
            "LMX_SUPERVISOR": "launchd",
            "LMX_LOGGING__FILE": f"{TMP}/opta-lmx.log",
        },
        "WorkingDirectory": "/Users/you/.opta-lmx",
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 120,
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "HardResourceLimits": {"NumberOfFiles": 65536},
        "ProcessType": "Standard",
        "AbandonProcessGroup": False,
        "StandardOutPath": f"{TMP}/opta-lmx.stdout.log",
        "StandardErrorPath": f"{TMP}/opta-lmx.stderr.log",
    } == plist(JOB)


def test_a_daemon_of_the_system_names_its_user() -> None:
    """An agent does not; settings that name a log file are left to say so."""
    job = msgspec.structs.replace(JOB, user="lmx", log_file=None)
    assert "lmx" == plist(job)["UserName"]
    assert "LMX_LOGGING__FILE" not in plist(job)["EnvironmentVariables"]
    assert "UserName" not in plist(JOB)


def test_the_file_in_the_repository_is_what_is_rendered() -> None:
    """`python scripts/service_files.py` writes it."""
    assert (REPOSITORY / "launchd/com.opta.lmx.plist").read_bytes() == render_plist(EXAMPLE)


def test_the_unit_keeps_the_daemons_promises() -> None:
    """Watched, started again after a failure only, drained, and left alive when a worker is not."""
    lines = unit_lines(JOB)
    for line in (
        "Type=notify",
        "NotifyAccess=main",
        "ExecStart=/Users/you/lmx/.venv/bin/python -m opta_lmx.main --port 8080",
        "WatchdogSec=60",
        "Restart=on-failure",
        "RestartPreventExitStatus=75 78",
        "TimeoutStopSec=120",
        "KillMode=mixed",
        "OOMPolicy=continue",
        "LimitNOFILE=65536",
        "WantedBy=default.target",
        "Environment=LMX_SUPERVISOR=systemd",
    ):
        assert line in lines
    assert not [line for line in lines if line.startswith("User=")]


def test_nothing_hides_devices_or_processes() -> None:
    """GPUs are below /dev, and the box of skills mounts a /proc of its own."""
    forbidden = ("Private", "Protect", "RestrictNamespaces", "MemoryDeny", "DevicePolicy")
    assert not [line for line in unit_lines(JOB) if line.startswith(forbidden)]
    system = unit_lines(msgspec.structs.replace(JOB, user="lmx"))
    assert {"ProtectSystem=full", "PrivateTmp=yes"} == {
        line for line in system if line.startswith(forbidden)
    }
    assert {"User=lmx", "WantedBy=multi-user.target"} <= set(system)


def test_odd_words_reach_the_daemon_as_they_are() -> None:
    """Systemd replaces per cents and dollars, and splits at blanks."""
    job = msgspec.structs.replace(JOB, arguments=("--model", 'fake:a b$%"\\'), home="/h %i")
    lines = unit_lines(job)
    [command] = [line for line in lines if line.startswith("ExecStart=")]
    assert command.endswith(' --model "fake:a b$$%%\\"\\\\"')
    assert "WorkingDirectory=-/h %%i" in lines
    assert 'Environment="LMX_HOME=/h %%i"' in lines


def test_options_of_the_daemon_are_checked_before_they_are_installed() -> None:
    """Paths become absolute, and what `lmx serve` would refuse is refused now."""
    words = ["--model", "a", "--config", "c.yaml", "--port", "8080", "--model", "b"]
    read = parse_serve_arguments(words)
    config = str(Path("c.yaml").absolute())
    assert ("--config", config, "--port", "8080", "--model", "a", "--model", "b") == read.words
    assert {"port": 8080} == read.server
    for wrong in (["--bogus"], ["--port", "x"], ["word"], ["--port"]):
        with pytest.raises(CommandFailed) as caught:
            parse_serve_arguments(wrong)
        assert 2 == caught.value.status
