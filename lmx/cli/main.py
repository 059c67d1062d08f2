"""The command line, put together. What commands do stands in modules of their own.

`docs/cli.md` lists the exit statuses. Nothing is imported here that ``--help`` does not need; a
command imports the rest when it runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lmx import __version__
from lmx.cli import (
    card,
    chatting,
    config_commands,
    embedding,
    importing,
    listing,
    models,
    pulling,
    quantizing,
    service_commands,
    tools,
)
from lmx.cli.exits import Exit
from lmx.errors import ConfigError, LmxError

app = typer.Typer(
    name="lmx",
    help="LMX serves language models on this machine to the LAN.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Console entry point.

    Args:
        arguments: What to run, instead of this process's arguments.
    """
    try:
        app(arguments)
    except ConfigError as error:
        _fail(error, Exit.CONFIG)
    except LmxError as error:
        _fail(error, Exit.FAILED)


def _fail(error: LmxError, status: int) -> None:
    typer.echo(f"lmx: {error.message}", err=True)
    sys.exit(status)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it with the flag's value
    if wanted:
        typer.echo(f"lmx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [0.0.0.0]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 picks a free one. [1234]", min=0, max=65535)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to load: an id, a directory, a .gguf file, either of the first two with "
            "@QUANTISATION for one of several GGUF files, 'demo', 'embedder', or "
            "'fake:NAME?key=value'. May be repeated. [demo]"
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Format to load models from: auto (MLX first), mlx or gguf. [auto]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file. [LMX_HOME/config.yaml]")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error. [info]")
    ] = None,
) -> None:
    """Serve models on port 1234 until stopped."""
    from lmx.cli.serving import run_daemon

    given: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "models": {"load": model or None, "backend": backend},
        "logging": {"level": log_level},
    }
    overrides = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in given.items()
    }
    run_daemon(config, overrides)


PARTS = (
    listing,
    models,
    card,
    chatting,
    config_commands,
    pulling,
    quantizing,
    importing,
    embedding,
    service_commands,
    tools,
)
for _part in PARTS:
    _part.add_commands(app)
