"""``lmx doctor``: looks at everything that keeps LMX from working, and says what to do about it.

Works without a daemon. Looking changes nothing.
"""

import os
import time

import msgspec
import trio
import typer

from lmx.cli.client import Client
from lmx.cli.daemon_checks import check_daemon, check_key
from lmx.cli.exits import Exit
from lmx.cli.finding import Finding
from lmx.cli.machine_checks import (
    check_clock,
    check_containment,
    check_disk,
    check_home,
    check_libraries,
    check_lock,
    check_log,
    check_models,
    check_settings,
)
from lmx.cli.session import Session
from lmx.cli.target import Target, find_target, is_loopback, own_url
from lmx.cli.words import printable
from lmx.config import home_directory
from lmx.errors import ConfigError
from lmx.skills.box.capability import detect_capability

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def examine(session: Session) -> None:
    """Look at everything and show what was found.

    Args:
        session: Shows it, and knows which daemon is meant.

    Raises:
        typer.Exit: With status 1, if anything fails.
    """
    findings = find_all(session.url, session.admin_key)
    is_well = all(finding.state != "fail" for finding in findings)
    if session.as_json:
        rows = [msgspec.to_builtins(finding) for finding in findings]
        session.line({"ok": is_well, "checks": rows})
    else:
        for finding in findings:
            _print(session, finding)
    if not is_well:
        raise typer.Exit(int(Exit.FAILED))


def find_all(url: str | None, admin_key: str | None) -> list[Finding]:
    """Every finding, in order of what depends on what.

    Args:
        url: The daemon's address as the command line says it.
        admin_key: As the command line says it.
    """
    home = home_directory(os.environ)
    settings, about_settings = check_settings(os.environ, home)
    try:
        target = find_target(url, admin_key)
    except ConfigError:
        target = Target(own_url(settings), admin_key or "")
    client = Client(target)
    health = check_daemon(client)
    loaded_count, about_key = check_key(client) if health.answers else (0, None)
    client.close()
    about_daemon = [health.finding, *([about_key] if about_key else [])]
    clock = check_clock(time.time(), health.clock_s)
    if target.url != own_url(settings) and not is_loopback(target.url):
        return [*about_daemon, clock]
    capability = trio.run(detect_capability)
    return [
        *about_settings,
        check_home(home),
        check_disk(settings),
        check_libraries(),
        check_lock(home, answers=health.answers, now_s=time.time()),
        *about_daemon,
        *check_models(settings, loaded_count=loaded_count),
        check_log(settings),
        check_containment(settings, capability),
        clock,
    ]


def _print(session: Session, finding: Finding) -> None:
    out = session.out
    out.print(MARKS[finding.state], style=STYLES[finding.state], end="")
    out.print(f"  {finding.name:<10} {printable(finding.found)}", soft_wrap=True)
    if finding.advice:
        out.print(f"{'':<17}-> {printable(finding.advice)}", soft_wrap=True)
