"""``lmx embed``: vectors of texts."""

import sys
from typing import Annotated, Any

import typer

from lmx.cli.arguments import LoadedOption
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.session import Session, command


def add_commands(app: typer.Typer) -> None:
    """Put it on the command line."""
    command(app)(embed)


def embed(
    session: Session,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, each line of standard input.")
    ] = None,
    *,
    model: LoadedOption = None,
    base64: Annotated[
        bool, typer.Option("--base64", help="Little-endian float32 in base64.")
    ] = False,
) -> None:
    """Print the vector of each text, one JSON array or base64 text per line."""
    given = texts or [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not given:
        raise CommandFailed("there is no text to make a vector of", Exit.USAGE, "usage")
    body: dict[str, Any] = {
        "input": given,
        "encoding_format": "base64" if base64 else "float",
    }
    if model is not None:
        body["model"] = model
    document = session.client.post("/v1/embeddings", body)
    if session.as_json:
        session.line(document)
        return
    for row in document["data"]:
        if base64:
            typer.echo(row["embedding"])
        else:
            session.line(row["embedding"])
