"""``lmx quantize``: a conversion to fewer bits, which runs in the daemon."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from lmx.cli.arguments import ModelArgument, one_of
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.pulling import RUNNING, watch
from lmx.cli.session import Session, command
from lmx.cli.words import path_segment, size_text


def add_commands(app: typer.Typer) -> None:
    """Put it on the command line."""
    command(app)(quantize)


def quantize(
    session: Session,
    model: ModelArgument,
    *,
    bits: Annotated[int, typer.Option(help="Of one weight, 4 or 8.", callback=one_of(4, 8))] = 4,
    group_size: Annotated[
        int,
        typer.Option(
            help="Weights that share a scale: 32, 64 or 128.", callback=one_of(32, 64, 128)
        ),
    ] = 64,
    output: Annotated[str | None, typer.Option(help="Where to. [LMX_HOME/quantized/NAME]")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End its running conversion.")] = False,
) -> None:
    """Quantise a model: the same model in fewer bits, beside the old one."""
    if cancel:
        _cancel(session, model)
        return
    asked = {
        "source_model": model,
        "bits": bits,
        "group_size": group_size,
        "output_path": output,
    }
    body = {key: value for key, value in asked.items() if value is not None}
    job = session.client.post("/admin/quantize", body)
    job_id = job["job_id"]
    try:
        row = _follow(session, job_id, model)
    except KeyboardInterrupt:
        session.say(
            f"The conversion goes on in the daemon as job {job_id}; "
            f"`lmx quantize {model} --cancel` ends it."
        )
        raise
    if row["status"] != "completed":
        reason = row.get("error") or row["status"]
        raise CommandFailed(f"{model} was not quantised: {reason}", code=str(row["status"]))
    if not session.as_json:
        size = size_text(row.get("output_size_bytes"))
        session.out.print(f"{row['output_path']} is there, {size}")


def _cancel(session: Session, model: str) -> None:
    rows = session.client.get("/admin/quantize")["jobs"]
    found = [
        row
        for row in rows
        if row["status"] in RUNNING and model in {row["source_model"], row["job_id"]}
    ]
    if not found:
        raise CommandFailed(f"no conversion of {model} is running", Exit.NOT_FOUND, "not_found")
    for row in found:
        document = session.client.post(f"/admin/quantize/{path_segment(row['job_id'])}/cancel")
        session.show(document, lambda: f"the conversion of {model} is cancelled")


def _follow(session: Session, job_id: str, model: str) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=session.err, disable=not session.err.is_terminal) as progress:
        bar = progress.add_task(f"quantising {model}", total=100)

        def show(row: Mapping[str, Any]) -> None:
            progress.update(bar, completed=row.get("progress_percent") or 0)
            if session.as_json:
                session.line(row)

        return watch(session.client, f"/admin/quantize/{path_segment(job_id)}", show)
