"""``lmx load``, ``lmx unload`` and ``lmx rm``.

A load belongs to the daemon: interrupting the command ends the waiting and not the load.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lmx.cli.arguments import LoadedArgument, ModelArgument, YesOption
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.pulling import follow_loading_download
from lmx.cli.session import Session, command
from lmx.cli.words import path_segment, size_text

if TYPE_CHECKING:
    from lmx.cli.client import Client

# Long enough for the daemon to refuse what it can refuse at once.
NO_WAIT_S = 1.0
GIGA = 1e9
DOWNLOAD_STATES = frozenset({"download_required", "downloading"})


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    command(app)(load)
    command(app)(unload)
    command(app, "rm")(remove)


def load(
    session: Session,
    model: ModelArgument,
    *,
    context: Annotated[
        int | None, typer.Option(help="Most tokens of prompt and answer together.", min=1)
    ] = None,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds without a request; 0 for never.", min=0)
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it answers.")] = True,
    yes: YesOption = False,
) -> None:
    """Load a model; download it first if it is not on disk and you agree."""
    asked = {
        "model_id": model,
        "max_context_length": context,
        "keep_alive_sec": keep_alive,
    }
    body = {key: value for key, value in asked.items() if value is not None}
    try:
        document = _ask_for(session, body, is_patient=wait)
        if document.get("status") in DOWNLOAD_STATES:
            document = follow_loading_download(session, document, is_agreed=yes, wait=wait)
    except KeyboardInterrupt:
        session.say("The load goes on; `lmx ps` shows it, `lmx unload` ends it.")
        raise
    except CommandFailed as failure:
        raise _explained(session.client, failure) from failure
    session.show(document, lambda: _loaded_text(document))


def unload(session: Session, model: LoadedArgument = None) -> None:
    """Unload a model; without a name, the one that was used last."""
    with _spinner(session, f"unloading {model or 'the model that was used last'}"):
        document = session.client.post("/admin/models/unload", {"model_id": model} if model else {})
    session.show(
        document,
        lambda: (
            f"{document['model_id']} is unloaded, "
            f"{size_text(document['memory_freed_gb'] * GIGA)} free again"
        ),
    )


def remove(session: Session, model: ModelArgument, *, yes: YesOption = False) -> None:
    """Delete a model's files."""
    client = session.client
    row = _row(client, model)
    question = f"Delete {row['path']}, {size_text(row['size_bytes'])}?"
    if not yes and not session.confirm(question):
        raise CommandFailed("nothing was deleted", code="unconfirmed")
    document = client.ask("DELETE", f"/admin/models/{path_segment(row['path'])}", timeout_s=None)
    session.show(
        document,
        lambda: f"{document['model_id']} is deleted, {size_text(document['freed_bytes'])} free",
    )


def _ask_for(session: Session, body: dict[str, Any], *, is_patient: bool) -> dict[str, Any]:
    """The daemon's answer to a load; that of a model on disk goes on without us.

    Of any other the daemon asks the hub, which ends when we leave, so that answer is waited for.
    """
    path, model = "/admin/models/load", body["model_id"]
    if is_patient:
        with _spinner(session, f"loading {model}"):
            return dict(session.client.post(path, body))
    try:
        return dict(session.client.post(path, body, timeout_s=NO_WAIT_S))
    except CommandFailed as failure:
        if failure.code != "timeout":
            raise
    if _is_here(session.client, model):
        return {"status": "loading", "model_id": model}
    return dict(session.client.post(path, body))


def _is_here(client: "Client", model: str) -> bool:
    """Whether the daemon knows a model without asking a hub."""
    try:
        client.get(f"/admin/models/{path_segment(model)}/card")
    except CommandFailed as failure:
        if failure.status is Exit.NOT_FOUND:
            return False
        raise
    return True


def _explained(client: "Client", failure: CommandFailed) -> CommandFailed:
    """A load that does not fit, with what could be unloaded."""
    if failure.status is not Exit.NO_ROOM or failure.code == "storage-full":
        return failure
    try:
        rows = client.get("/admin/models")["loaded"]
    except CommandFailed:
        return failure
    held = ", ".join(f"{row['id']} ({row['memory_gb']:.1f} GB)" for row in rows)
    advice = f" Loaded: {held}; `lmx unload` frees it." if held else ""
    shorter = " A shorter --context takes less."
    return CommandFailed(
        failure.message.rstrip(".") + "." + advice + shorter, failure.status, failure.code
    )


def _row(client: "Client", model: str) -> dict[str, Any]:
    """The one model on disk that is meant, by its whole id or its short one."""
    rows = client.get("/admin/models")["models"]
    found = [row for row in rows if model == row["path"]]
    found = found or [row for row in rows if model.lower() == row["id"].lower()]
    if len(found) != 1:
        raise CommandFailed(
            f"there is no model {model!r} on disk; `lmx list` shows those there are",
            Exit.NOT_FOUND,
            "not_found",
        )
    return dict(found[0])


def _loaded_text(document: dict[str, Any]) -> str:
    if document.get("status") != "loaded":
        return f"{document['model_id']} is on its way; `lmx ps` shows when it answers"
    seconds = document["time_to_load_ms"] / 1000
    return (
        f"{document['model_id']} answers: {size_text(document['vram_gb'] * GIGA)}, "
        f"{document['backend']}, context of {document['context_length']:,} tokens, "
        f"{seconds:.1f} s"
    )


def _spinner(session: Session, text: str) -> Progress:
    """Shows on a terminal that something goes on and for how long."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=session.err,
        transient=True,
        disable=not session.err.is_terminal,
    )
    progress.add_task(text)
    return progress
