"""``lmx pull`` and ``lmx downloads``: downloads run in the daemon, the command only watches.

So Ctrl-C ends the watching, and calling the command again watches on. A daemon that is away for a
moment, as during a restart, is waited for: it takes its downloads up again.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lmx.cli.arguments import YesOption
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.session import Session, command, table
from lmx.cli.words import NONE, path_segment, size_text

if TYPE_CHECKING:
    from lmx.cli.client import Client

POLL_S = 0.5
# How long the daemon may be away while something of it is watched.
AWAY_S = 30.0
RUNNING = frozenset({"pending", "running", "downloading"})

RepositoryArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A repository such as org/name; with @QUANTISATION for one of several GGUF files.",
        show_default=False,
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    command(app)(pull)
    command(app, "downloads")(show_downloads)


def pull(
    session: Session,
    model: RepositoryArgument,
    *,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only files like this, such as '*Q4_K_M*'.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End its running download.")] = False,
    yes: YesOption = False,
) -> None:
    """Download a model; a download that was cut goes on where it ended."""
    client = session.client
    if cancel:
        _cancel(session, model)
        return
    asked = {"repo_id": model, "revision": revision, "allow_patterns": include or None}
    body = {key: value for key, value in asked.items() if value is not None}
    if session.is_terminal and not session.as_json and not yes:
        _ask_first(session, body)
    started = client.post("/admin/models/download", body)
    try:
        row = follow_download(session, started["download_id"], model)
    except KeyboardInterrupt:
        session.say(
            f"The download goes on in the daemon; `lmx pull {model}` watches it again, "
            f"`lmx pull {model} --cancel` ends it."
        )
        raise
    if not session.as_json:
        session.out.print(f"{row['repo_id']} is there, {size_text(row['total_bytes'])}")


def show_downloads(
    session: Session,
    *,
    ended: Annotated[bool, typer.Option("--all", "-a", help="With those that ended.")] = False,
) -> None:
    """List the downloads of the daemon."""
    found = session.client.get("/admin/models/downloads", include_inactive=str(ended).lower())
    rows = found["downloads"]
    session.show(
        {"downloads": rows},
        lambda: (
            table(
                *("MODEL", "STATUS", "DONE", "SIZE", "REASON"),
                numbers=("DONE", "SIZE"),
                rows=[_cells(row) for row in rows],
            )
            if rows
            else "there is no download"
        ),
    )


def follow_loading_download(
    session: Session, document: Mapping[str, Any], *, is_agreed: bool, wait: bool
) -> dict[str, Any]:
    """Bring a load that needs a download to its end.

    Args:
        session: Asks and shows.
        document: What the load was answered with.
        is_agreed: Whether the download needs no question.
        wait: Whether to wait for download and load.

    Returns:
        What a load of a model on disk is answered with; or, without waiting, what goes on.

    Raises:
        CommandFailed: Nobody agrees; or either fails.
    """
    client, model = session.client, document["model_id"]
    if document["status"] == "download_required":
        if not is_agreed and not session.confirm(f"Download {model}, {_size(document)}?"):
            raise CommandFailed("nothing was downloaded", code="unconfirmed")
        token = {"confirmation_token": document["confirmation_token"]}
        document = client.post("/admin/models/load/confirm", token)
    if wait and (download_id := document.get("download_id")):
        follow_download(session, download_id, model, is_shown=not session.as_json)
    if not wait:
        return dict(document)
    # The daemon loads it by itself now; asking again joins that, and hears how it goes.
    return dict(client.post("/admin/models/load", {"model_id": model}))


def follow_download(
    session: Session, download_id: str, name: str, *, is_shown: bool = True
) -> dict[str, Any]:
    """Watch a download until it ends.

    Raises:
        CommandFailed: It failed, was cancelled, or the daemon is gone.
    """
    path = f"/admin/models/download/{path_segment(download_id)}/progress"
    with _bars(session) as progress:
        bar = progress.add_task(name, total=None)

        def show(row: Mapping[str, Any]) -> None:
            progress.update(
                bar, completed=row["downloaded_bytes"], total=row["total_bytes"] or None
            )
            if session.as_json and is_shown:
                session.line(row)

        row = watch(session.client, path, show)
    return _ended_well(row, name)


def watch(client: "Client", path: str, show: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Ask for a job's state until it has ended, showing each that differs from the one before.

    Raises:
        CommandFailed: The daemon is away for too long, or knows nothing of the job.
    """
    before: Any = None
    last_heard_s = time.monotonic()
    while True:
        try:
            row = client.get(path)
            last_heard_s = time.monotonic()
        except CommandFailed as failure:
            is_late = time.monotonic() - last_heard_s > AWAY_S
            if failure.status is not Exit.UNREACHABLE or is_late:
                raise
            row = before
        if row is not None and row != before:
            show(row)
            before = row
        if row is not None and row["status"] not in RUNNING:
            return dict(row)
        time.sleep(POLL_S)


def _ended_well(row: dict[str, Any], name: str) -> dict[str, Any]:
    if row["status"] == "completed":
        return row
    code = str(row.get("error_code") or row["status"])
    if code == "cancelled":
        raise CommandFailed(f"the download of {name} was cancelled", code=code)
    status = Exit.NO_ROOM if code == "storage-full" else Exit.FAILED
    reason = row.get("error") or code
    raise CommandFailed(f"the download of {name} failed: {reason}", status, code)


def _ask_first(session: Session, body: Mapping[str, Any]) -> None:
    """Begin nothing unless a person at a terminal wants so much; what has begun needs no question.

    A script that asks for a model means it, and is not asked.
    """
    preview = session.client.post("/admin/models/download/preview", body)
    question = f"Download {preview['model_id']}, {_size(preview)}?"
    if preview["download_id"] is None and not session.confirm(question):
        raise CommandFailed("nothing was downloaded", code="unconfirmed")


def _size(document: Mapping[str, Any]) -> str:
    human = document.get("estimated_size_human")
    return str(human) if human else size_text(document.get("estimated_size_bytes") or None)


def _cancel(session: Session, model: str) -> None:
    rows = session.client.get("/admin/models/downloads")["downloads"]
    found = [row for row in rows if model in {row["repo_id"], row["download_id"]}]
    if not found:
        raise CommandFailed(f"no download of {model} is running", Exit.NOT_FOUND, "not_found")
    for row in found:
        path = f"/admin/models/download/{path_segment(row['download_id'])}/cancel"
        document = session.client.post(path)
        session.show(document, lambda: f"the download of {model} is cancelled")


def _cells(row: Mapping[str, Any]) -> list[str]:
    percent = row.get("progress_percent")
    return [
        row["repo_id"],
        row["status"],
        NONE if percent is None else f"{percent:.0f}%",
        size_text(row["total_bytes"] or None),
        row.get("error") or "",
    ]


def _bars(session: Session) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=session.err,
        disable=not session.err.is_terminal,
    )
