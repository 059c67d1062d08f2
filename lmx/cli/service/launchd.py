"""launchd: the property list of the service, and ``launchctl``.

``KeepAlive`` has `SuccessfulExit: false`, so that launchd starts the daemon again after a crash and
leaves it alone after a stop that was asked for. Source: launchd.plist(5), launchctl(1).
"""

import os
import plistlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmx.cli.exits import CommandFailed
from lmx.cli.service.job import Job
from lmx.cli.service.manager import ServiceState
from lmx.cli.service.programs import Ran, has_program, run_program

LABEL = "com.opta.lmx"
THROTTLE_S = 10
DESCRIPTORS = 65_536
# Where people and the Opta CLI look for the logs of an agent.
AGENT_LOGS = "/tmp"  # noqa: S108  # the documented place
SYSTEM_LOGS = "/var/log/opta-lmx"
LOG_VARIABLE = "LMX_LOGGING__FILE"
# Between two looks at whether a service that was stopped is gone.
LOOK_S = 0.2
SESSION_HINT = (
    "A user's services need that user's session: log in at the screen, or install with --system"
)


def render_plist(job: Job) -> bytes:
    """The property list of a job."""
    logs = Path(job.log_directory or AGENT_LOGS)
    environment = {**job.environment, "LMX_SUPERVISOR": "launchd"}
    if job.log_file is not None:
        environment[LOG_VARIABLE] = job.log_file
    plist: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": job.command,
        "EnvironmentVariables": environment,
        "WorkingDirectory": job.home,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": THROTTLE_S,
        "ExitTimeOut": job.stop_limit_s,
        "SoftResourceLimits": {"NumberOfFiles": DESCRIPTORS},
        "HardResourceLimits": {"NumberOfFiles": DESCRIPTORS},
        "ProcessType": "Standard",
        "AbandonProcessGroup": False,
        "StandardOutPath": str(logs / "opta-lmx.stdout.log"),
        "StandardErrorPath": str(logs / "opta-lmx.stderr.log"),
    }
    if job.user is not None:
        plist["UserName"] = job.user
    return plistlib.dumps(plist, sort_keys=False)


class Launchd:
    """The service in launchd.

    Args:
        is_system: A daemon that starts at boot; else an agent of the user, from login on.
    """

    name = "launchd"

    def __init__(self, *, is_system: bool) -> None:
        self._domain = "system" if is_system else f"gui/{os.getuid()}"
        self._folder = Path("/Library/LaunchDaemons")
        if not is_system:
            self._folder = Path("~/Library/LaunchAgents").expanduser()

    @property
    def path(self) -> Path:
        """The property list's place."""
        return self._folder / f"{LABEL}.plist"

    @property
    def target(self) -> str:
        """The service as ``launchctl`` names it."""
        return f"{self._domain}/{LABEL}"

    def require(self) -> None:
        """Refuse machines without launchd."""
        if not has_program("launchctl"):
            raise CommandFailed(
                "launchctl is not on PATH: this is no Mac, or PATH lacks /bin. Run `lmx serve` "
                "under a supervisor that this machine has",
                code="no-service-manager",
            )

    def render(self, job: Job) -> bytes:
        """The property list."""
        return render_plist(job)

    def check(self, file: Path) -> str:
        """Read it back, and have ``plutil`` read it where there is one."""
        try:
            label = plistlib.loads(file.read_bytes()).get("Label")
        except (ValueError, plistlib.InvalidFileException) as error:
            raise CommandFailed(f"{file} is no property list: {error}") from error
        if label != LABEL:
            raise CommandFailed(f"{file} is the property list of {label!r}, not of {LABEL}")
        if not has_program("plutil"):
            return "the property list is well-formed (plutil is not here to agree)"
        run_program("plutil", "-lint", str(file)).require()
        return "plutil finds the property list in order"

    def load(self) -> None:
        """Enable and bootstrap it, which also starts it."""
        run_program("launchctl", "enable", self.target).require()
        run_program("launchctl", "bootstrap", self._domain, str(self.path)).require(SESSION_HINT)

    def unload(self) -> None:
        """Boot it out and wait until it is gone, for a drain may take its time."""
        run_program("launchctl", "bootout", self.target)
        self._wait(lambda: not self._print().is_ok, "`bootout`")

    def forget(self) -> None:
        """Nothing: launchd reads a file once."""

    def start(self) -> None:
        """Start it; one that was booted out is loaded first."""
        if self._print().is_ok:
            run_program("launchctl", "kickstart", self.target).require()
        else:
            self.load()

    def stop(self) -> None:
        """Send SIGTERM and wait for the end.

        The daemon exits with 0, so launchd does not start it again.
        """
        pid = self.state().pid
        run_program("launchctl", "kill", "SIGTERM", self.target).require()
        self._wait(lambda: self.state().pid != pid, "SIGTERM")

    def state(self) -> ServiceState:
        """What ``launchctl print`` says."""
        printed = self._print()
        if not printed.is_ok:
            return ServiceState(is_installed=self.path.exists(), detail="not loaded")
        pid = _field(printed.output, "pid")
        last_exit = _field(printed.output, "last exit code")
        return ServiceState(
            is_installed=self.path.exists(),
            is_loaded=True,
            is_running=pid.isdecimal(),
            pid=int(pid) if pid.isdecimal() else None,
            last_exit=_leading_number(last_exit),
            detail=_field(printed.output, "state"),
        )

    def log_files(self) -> list[Path]:
        """Where the installed service writes, as far as its property list says."""
        try:
            plist = plistlib.loads(self.path.read_bytes())
            files = [plist["StandardOutPath"], plist["StandardErrorPath"]]
            own = plist["EnvironmentVariables"].get(LOG_VARIABLE)
        except (OSError, ValueError, KeyError, plistlib.InvalidFileException) as error:
            raise CommandFailed(
                f"{self.path} cannot be read: is the service installed? `lmx service install`"
            ) from error
        return [Path(file) for file in (*files, own) if file]

    def _wait(self, is_over: Callable[[], bool], what: str) -> None:
        limit_s = _exit_limit_s(self.path)
        deadline_s = time.monotonic() + limit_s
        while not is_over():
            if time.monotonic() > deadline_s:
                raise CommandFailed(f"{self.target} is still there {limit_s} s after {what}")
            time.sleep(LOOK_S)

    def _print(self) -> Ran:
        return run_program("launchctl", "print", self.target)


def _exit_limit_s(path: Path) -> int:
    """How long launchd lets the loaded service stop, and a little longer."""
    try:
        return int(plistlib.loads(path.read_bytes())["ExitTimeOut"]) + THROTTLE_S
    except (OSError, ValueError, KeyError, plistlib.InvalidFileException):
        return THROTTLE_S


def _field(output: str, name: str) -> str:
    match = re.search(rf"^\s*{name} = (.*)$", output, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _leading_number(text: str) -> int | None:
    match = re.match(r"-?\d+", text)
    return int(match.group()) if match else None
