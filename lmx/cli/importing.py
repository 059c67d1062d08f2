"""``lmx import``: a progress bar over an import that runs in a child process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lmx.catalog.embedded import EMBEDDED
from lmx.catalog.gguf_names import is_gguf
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.session import Session, command
from lmx.config import home_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmx.daemon.imports import EmbeddedImport, GgufImport, ImportProgress


def add_commands(app: typer.Typer) -> None:
    """Put it on the command line."""
    command(app, "import")(import_model)


def import_model(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="demo or embedder, which are fetched; or a GGUF file, converted for MLX.",
            show_default=False,
        ),
    ],
) -> None:
    """Bring a model into LMX_HOME: one that LMX knows by name, or a GGUF file of yours."""
    from lmx.daemon.imports import EmbeddedImport, GgufImport

    home = home_directory(os.environ)
    embedded = EMBEDDED.get(what)
    found = None if embedded is None else embedded.find(home)
    if embedded is not None:
        path = found or _run(session, home, EmbeddedImport(embedded.word))
    elif is_gguf(what):
        path = _run(session, home, GgufImport(Path(what).expanduser().absolute()))
    else:
        known = ", ".join(EMBEDDED)
        raise CommandFailed(
            f"{what!r} is neither a .gguf file nor one of {known}", Exit.USAGE, "usage"
        )
    news = "is at" if found is None else "is there already:"
    session.show({"model_id": path.name, "path": str(path)}, lambda: f"{path.name} {news} {path}")


def _run(session: Session, home: Path, request: "EmbeddedImport | GgufImport") -> Path:
    """One import, with a bar per stage on a terminal; running it again resumes it."""
    import trio

    from lmx.daemon.imports import run_import

    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=session.err) as progress:
        try:
            return trio.run(run_import, home, request, _bars(progress))
        except KeyboardInterrupt:
            session.say("Interrupted; what was fetched stays, and the next import goes on from it.")
            raise


def _bars(progress: Progress) -> "Callable[[ImportProgress], None]":
    bars: dict[str, TaskID] = {}

    def report(stage: "ImportProgress") -> None:
        if stage.stage not in bars:
            bars[stage.stage] = progress.add_task(stage.stage)
        progress.update(bars[stage.stage], completed=stage.done, total=stage.total or None)

    return report
