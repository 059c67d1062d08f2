"""``lmx service``: install, uninstall, start, stop and watch LMX as a service of the system."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.service.job import (
    Account,
    ServeArguments,
    make_job,
    parse_serve_arguments,
    service_account,
    service_home,
)
from lmx.cli.service.launchd import AGENT_LOGS, SYSTEM_LOGS, Launchd
from lmx.cli.service.systemd import Systemd
from lmx.cli.session import Session, command
from lmx.cli.target import own_url
from lmx.cli.words import printable
from lmx.config import Settings, load_settings

SystemOption = Annotated[
    bool, typer.Option("--system", help="A service of the machine, from boot on. Needs root.")
]
ServeArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVE OPTIONS]", help="Options of `lmx serve`, such as --port 8080."),
]
# Which service manager is meant where it is not the platform's own.
MANAGER_VARIABLE = "LMX_SERVICE_MANAGER"
# Between two questions whether the daemon answers.
LOOK_S = 0.2


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    group = typer.Typer(help="Run LMX as a service of the system.", no_args_is_help=True)
    unknown = {"ignore_unknown_options": True}
    command(group, "install", context_settings=unknown)(install_service)
    command(group, "uninstall")(uninstall_service)
    command(group, "start")(start_service)
    command(group, "stop")(stop_service)
    command(group, "status")(show_service)
    command(group, "logs")(show_logs)
    app.add_typer(group, name="service")


def install_service(
    session: Session,
    arguments: ServeArgumentsArgument = None,
    *,
    system: SystemOption = False,
    user: Annotated[
        str | None, typer.Option(help="Whom a service of the machine runs as. [who calls sudo]")
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the daemon.", min=0)] = 15.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the file, do nothing.")] = False,
) -> None:
    """Install LMX as a service, start it, and keep it running."""
    from lmx.cli.service.installer import install

    chosen = _manager(is_system=system)
    account = service_account(user, is_system=system)
    serving = parse_serve_arguments(arguments or ())
    settings = _service_settings(account, serving)
    job = make_job(
        account,
        settings,
        serving.words,
        is_system=system,
        log_directory=_log_directory(chosen, is_system=system),
    )
    if dry_run:
        text = chosen.render(job).decode()
        if session.as_json:
            session.line({"path": str(chosen.path), "content": text})
        else:
            typer.echo(text, nl=False)
        return
    chosen.require()
    report = Report(session)
    is_changed = install(chosen, job, account, report=report)
    url = own_url(settings)
    answers = _wait_answer(url, wait)
    report(f"the daemon answers at {url}" if answers else _silence(url, wait))
    if session.as_json:
        place = {"manager": chosen.name, "path": str(chosen.path), "url": url}
        session.line({"changed": is_changed, **place, "answers": answers, "steps": report.steps})


def uninstall_service(session: Session, *, system: SystemOption = False) -> None:
    """Stop the service and remove it. Models, settings and logs stay."""
    from lmx.cli.service.installer import uninstall

    chosen = _required(is_system=system)
    report = Report(session)
    is_changed = uninstall(chosen, report)
    if session.as_json:
        session.line({"changed": is_changed, "steps": report.steps})


def start_service(session: Session, *, system: SystemOption = False) -> None:
    """Start the installed service."""
    chosen = _required(is_system=system)
    if not chosen.path.exists():
        raise CommandFailed(
            f"{chosen.path} is not there; `lmx service install` puts it there", Exit.NOT_FOUND
        )
    chosen.start()
    session.show({"started": True}, lambda: "started")


def stop_service(session: Session, *, system: SystemOption = False) -> None:
    """Stop the service until the next start, login or boot. Running requests finish first."""
    chosen = _required(is_system=system)
    is_running = chosen.state().is_running
    if is_running:
        chosen.stop()
    word = "stopped" if is_running else "it does not run"
    session.show({"stopped": is_running}, lambda: word)


def show_service(session: Session, *, system: SystemOption = False) -> None:
    """Show how the service is. Exit status 3 if it does not run."""
    chosen = _required(is_system=system)
    state = chosen.state()
    document = {"manager": chosen.name, "path": str(chosen.path), **msgspec.structs.asdict(state)}

    def render() -> str:
        rows = {
            "service": f"{chosen.path}" if state.is_installed else "not installed",
            chosen.name: state.detail,
            "pid": state.pid or "does not run",
            "last exit": "none yet" if state.last_exit is None else state.last_exit,
        }
        return "\n".join(f"{name:<11}{value}" for name, value in rows.items())

    session.show(document, render)
    if not state.is_running:
        raise typer.Exit(int(Exit.UNREACHABLE))


def show_logs(
    session: Session,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    system: SystemOption = False,
) -> None:
    """Show what the service said last."""
    from lmx.cli.service.saying import read_files, read_journal

    chosen = _manager(is_system=system)
    if isinstance(chosen, Launchd):
        configured = load_settings().logging.file
        files = chosen.log_files() + ([Path(configured).expanduser()] if configured else [])
        said = read_files(list(dict.fromkeys(files)), lines, follow=follow)
    else:
        more = ["-n", str(lines), "-o", "cat", "--no-pager", *(["-f"] if follow else [])]
        said = read_journal(chosen.journal_command(*more))
    with suppress(KeyboardInterrupt):
        for line in said:
            if session.as_json:
                session.line({"line": line})
            else:
                typer.echo(printable(line))


class Report:
    """Tells each step as it is done, and keeps them.

    Args:
        session: Where to tell.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.steps: list[str] = []

    def __call__(self, step: str) -> None:
        """One more."""
        self.steps.append(step)
        if not self._session.as_json:
            self._session.out.print(step)


def _manager(*, is_system: bool) -> Launchd | Systemd:
    usual = "launchd" if sys.platform == "darwin" else "systemd"
    name = os.environ.get(MANAGER_VARIABLE) or usual
    if name not in {"launchd", "systemd"}:
        raise CommandFailed(f"{MANAGER_VARIABLE} may be launchd or systemd", Exit.USAGE, "usage")
    return Launchd(is_system=is_system) if name == "launchd" else Systemd(is_system=is_system)


def _required(*, is_system: bool) -> Launchd | Systemd:
    chosen = _manager(is_system=is_system)
    chosen.require()
    if is_system and os.geteuid() != 0:
        raise CommandFailed("services of the system need root; say it with sudo", code="not-root")
    return chosen


def _service_settings(account: Account, serving: ServeArguments) -> Settings:
    """As the service will read them: its environment holds its home and no other setting."""
    environment = {"LMX_HOME": str(service_home(account))}
    overrides = {"server": serving.server}
    return load_settings(file=serving.config, environment=environment, overrides=overrides)


def _log_directory(manager: Launchd | Systemd, *, is_system: bool) -> str | None:
    if isinstance(manager, Systemd):
        return None
    return SYSTEM_LOGS if is_system else AGENT_LOGS


def _wait_answer(url: str, wait_s: float) -> bool:
    """Whether the daemon answers before the wait is over."""
    import httpx2

    deadline_s = time.monotonic() + wait_s
    while time.monotonic() < deadline_s:
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/healthz", timeout=2.0, trust_env=False).is_success:
                return True
        time.sleep(LOOK_S)
    return False


def _silence(url: str, wait_s: float) -> str:
    return f"nothing answers at {url} after {wait_s:.0f} s; `lmx service logs` may say why"
