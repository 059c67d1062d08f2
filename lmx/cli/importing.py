"""``lmx import``: a progress bar over an import that runs in a child process."""

import os

import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lmx.catalog.embedded import EmbeddedModel
from lmx.config import home_directory
from lmx.daemon.imports import EmbeddedImport, ImportProgress, run_import


def import_with_progress(model: EmbeddedModel) -> None:
    """Import an embedded model, showing a bar per stage on a terminal.

    Raises:
        LoadError: The import failed; running it again resumes it.
    """
    home = home_directory(os.environ)
    console = Console(stderr=True)
    if found := model.find(home):
        console.print(f"{model.name} is there already: {found}")
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def report(stage: ImportProgress) -> None:
            if stage.stage not in bars:
                bars[stage.stage] = progress.add_task(stage.stage)
            progress.update(bars[stage.stage], completed=stage.done, total=stage.total or None)

        path = trio.run(run_import, home, EmbeddedImport(model.word), report)
    console.print(f"{model.name} is ready: {path}")
