"""``lmx doctor``, ``lmx bench`` and ``lmx logs``: their options. What they do is imported late."""

from pathlib import Path
from typing import Annotated

import typer

from lmx.cli.arguments import LoadedArgument
from lmx.cli.session import Session, command


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    command(app)(doctor)
    command(app)(bench)
    command(app)(logs)


def doctor(session: Session) -> None:
    """Look for what keeps LMX from working, and say what to do about it."""
    from lmx.cli.doctor import examine

    examine(session)


def bench(
    session: Session,
    model: LoadedArgument = None,
    *,
    tokens: Annotated[int, typer.Option(help="Length of each answer.", min=2, max=4096)] = 64,
    streams: Annotated[str, typer.Option(help="How many answers at a time.")] = "1,2,4,8",
    prompts: Annotated[str, typer.Option(help="Lengths of prompts, about, in tokens.")] = (
        "32,256,1024"
    ),
    png: Annotated[Path | None, typer.Option(help="Draw the plots into this file, too.")] = None,
) -> None:
    """Measure how fast a loaded model answers."""
    from lmx.cli.benching import run_bench

    run_bench(session, model, tokens=tokens, streams=streams, prompts=prompts, png=png)


def logs(
    session: Session,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many.", min=1, max=1000)] = 50,
) -> None:
    """Show the daemon's log; while it is down, its log file."""
    from lmx.cli.log_reading import read_logs

    read_logs(session, count=lines, is_followed=follow)
