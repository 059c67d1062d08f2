"""systemd: the unit of the service, and ``systemctl``.

The daemon says itself when it is ready and that it lives (`lmx.daemon.supervision`), so the unit is
of type ``notify`` with a watchdog. Three lines keep promises of the daemon: `KillMode=mixed` lets
it drain, for workers would get the signal, too; `OOMPolicy=continue` leaves it alive when the
kernel ends a worker; and nothing that hides parts of ``/proc`` or ``/dev`` is set, for GPUs need
the one and the box of skills mounts a new one of the other.
Source: systemd.service(5), systemd.exec(5), systemd.kill(5).
"""

import re
from pathlib import Path

from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.service.job import Job
from lmx.cli.service.manager import ServiceState
from lmx.cli.service.programs import Ran, has_program, run_program

UNIT = "opta-lmx.service"
WATCHDOG_S = 60
RESTART_S = 10
DESCRIPTORS = 65_536
BUS_HINT = (
    "A user's services need that user's session: log in, or `loginctl enable-linger` for one "
    "without a login, or install with --system"
)


def render_unit(job: Job) -> bytes:
    """The unit of a job."""
    unit = ["Description=LMX serves language models to the LAN", "StartLimitIntervalSec=0"]
    if job.user is not None:  # users' services know no network targets
        unit += ["Wants=network-online.target", "After=network-online.target"]
    service = [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(map(_quoted, job.command))}",
        *(f"Environment={_quoted(f'{k}={v}', is_command=False)}" for k, v in _variables(job)),
        f"WorkingDirectory=-{_escaped(job.home)}",
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        f"RestartPreventExitStatus={int(Exit.ALREADY_RUNNING)} {int(Exit.CONFIG)}",
        f"WatchdogSec={WATCHDOG_S}",
        f"TimeoutStopSec={job.stop_limit_s}",
        "KillMode=mixed",
        "OOMPolicy=continue",
        f"LimitNOFILE={DESCRIPTORS}",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
    ]
    if job.user is not None:
        service += [f"User={job.user}", "ProtectSystem=full", "PrivateTmp=yes"]
    target = "default.target" if job.user is None else "multi-user.target"
    sections = {"Unit": unit, "Service": service, "Install": [f"WantedBy={target}"]}
    texts = ["\n".join([f"[{name}]", *lines]) for name, lines in sections.items()]
    return ("\n\n".join(texts) + "\n").encode()


class Systemd:
    """The service in systemd.

    Args:
        is_system: A service of the system; else one of the user.
    """

    name = "systemd"

    def __init__(self, *, is_system: bool) -> None:
        self._scope = [] if is_system else ["--user"]
        self._folder = Path("/etc/systemd/system")
        if not is_system:
            self._folder = Path("~/.config/systemd/user").expanduser()

    @property
    def path(self) -> Path:
        """The unit's place."""
        return self._folder / UNIT

    def require(self) -> None:
        """Refuse machines without systemd."""
        if not has_program("systemctl"):
            raise CommandFailed(
                "systemctl is not on PATH: this machine has no systemd. Run `lmx serve` under the "
                "supervisor that it has",
                code="no-service-manager",
            )

    def render(self, job: Job) -> bytes:
        """The unit."""
        return render_unit(job)

    def check(self, file: Path) -> str:
        """Have ``systemd-analyze`` read it where there is one."""
        if not has_program("systemd-analyze"):
            return "systemd-analyze is not here to read the unit"
        hint = BUS_HINT if self._scope else ""  # it needs the session as systemctl does
        run_program("systemd-analyze", *self._scope, "verify", str(file)).require(hint)
        return "systemd-analyze finds the unit in order"

    def load(self) -> None:
        """Enable and start it."""
        self._ctl("daemon-reload").require(BUS_HINT)
        self._ctl("enable", UNIT).require()
        self._ctl("restart", UNIT).require(f"See `{self.journal_command()}`")

    def unload(self) -> None:
        """Stop and disable it; waits for its end."""
        self._ctl("disable", "--now", UNIT).require(BUS_HINT)

    def forget(self) -> None:
        """Let systemd see that the file is gone."""
        self._ctl("daemon-reload").require(BUS_HINT)
        self._ctl("reset-failed", UNIT)  # unknown to it, usually

    def start(self) -> None:
        """Start it."""
        self._ctl("start", UNIT).require(f"See `{self.journal_command()}`")

    def stop(self) -> None:
        """Stop it until the next boot, login or start; waits for its end."""
        self._ctl("stop", UNIT).require(BUS_HINT)

    def state(self) -> ServiceState:
        """What ``systemctl show`` says."""
        names = "LoadState,ActiveState,SubState,MainPID,ExecMainStatus"
        shown = self._ctl("show", UNIT, f"--property={names}").require(BUS_HINT)
        fields = dict(re.findall(r"^(\w+)=(.*)$", shown.output, re.MULTILINE))
        pid = int(fields.get("MainPID") or 0)
        status = fields.get("ExecMainStatus", "")
        return ServiceState(
            is_installed=self.path.exists(),
            is_loaded=fields.get("LoadState") == "loaded",
            is_running=pid > 0,
            pid=pid or None,
            last_exit=int(status) if status.isdecimal() else None,
            detail=f"{fields.get('ActiveState', 'unknown')} ({fields.get('SubState', '?')})",
        )

    def journal_command(self, *more: str) -> str:
        """How to read what the service says."""
        return " ".join(["journalctl", *self._scope, "-u", UNIT, *more])

    def _ctl(self, *arguments: str) -> Ran:
        return run_program("systemctl", *self._scope, *arguments)


def _variables(job: Job) -> list[tuple[str, str]]:
    """What systemd does not set by itself."""
    known = {"HOME"} if job.user is None else set()
    pairs = {**job.environment, "LMX_SUPERVISOR": "systemd"}.items()
    return [(name, value) for name, value in pairs if name not in known]


def _escaped(text: str) -> str:
    """Without what systemd would replace in a value."""
    return text.replace("%", "%%")


def _quoted(text: str, *, is_command: bool = True) -> str:
    """One word of a command line or an assignment, as systemd.syntax(7) wants it."""
    text = text.replace("$", "$$") if is_command else text
    text = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[\s'\"\\;]", text) or not text else text
