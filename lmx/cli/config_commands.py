"""``lmx config``: which settings hold, where each came from, and whether files can be used.

Reads what ``lmx serve`` would read, and no daemon. Keys are never printed.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmx.cli.exits import Exit
from lmx.errors import ConfigError

if TYPE_CHECKING:
    from lmx.config import Loaded

FileOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file. [LMX_HOME/config.yaml]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

config_app = typer.Typer(help="Show and check the settings.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(config_app, name="config")


@config_app.command()
def show(
    *,
    config: FileOption = None,
    origin: Annotated[bool, typer.Option(help="Also say where each value came from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every setting in force for a daemon that would start now."""
    from lmx.config.show import shown_values

    loaded = _read(config)
    values = shown_values(loaded.settings)
    if as_json:
        rows: dict[str, Any] = dict(values)
        if origin:
            rows = {
                name: {"value": value, "origin": str(loaded.origins[name])}
                for name, value in values.items()
            }
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print_values(values, loaded.origins if origin else None)
    _warn(loaded.warnings)


def _print_values(values: dict[str, Any], origins: Any) -> None:
    from lmx.config.manual import spell

    section = ""
    for name, value in values.items():
        group, _, key = name.partition(".")
        if group != section:
            section = group
            typer.echo(f"{section}:")
        origin = "" if origins is None else f"  # {origins[name]}"
        typer.echo(f"  {key}: {spell(value)}{origin}")


@config_app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="File to check. [what `lmx serve` would read]")
    ] = None,
    *,
    strict: Annotated[bool, typer.Option(help="Fail for warnings, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether the settings can be used, and what in them has no effect."""
    files, warnings, error = [], [], None
    try:
        loaded = _read(file)
    except ConfigError as unusable:
        error = unusable.message
    else:
        files = [str(path) for path in loaded.files]
        warnings = [str(warning) for warning in loaded.warnings]
    is_good = error is None and not (strict and warnings)
    if as_json:
        document = {"ok": is_good, "files": files, "warnings": warnings, "error": error}
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        for line in warnings if error is None else [error]:
            typer.echo(line)
        if error is None and not warnings:
            typer.echo(f"{', '.join(files) or 'no file'}: fine")
    if not is_good:
        raise typer.Exit(Exit.CONFIG)


@config_app.command()
def path(*, config: FileOption = None) -> None:
    """Print the files that are read, the one that wins last; the place of ours if there is none."""
    import os

    from lmx.config import default_files, home_directory

    files = [config] if config is not None else list(default_files(os.environ))
    for file in files or [home_directory(os.environ) / "config.yaml"]:
        typer.echo(str(file))


@config_app.command()
def example() -> None:
    """Print a file with every setting, its meaning and its default."""
    from lmx.config.manual import example_text

    typer.echo(example_text(), nl=False)


def _read(file: Path | None) -> "Loaded":
    from lmx.daemon.live import SettingsSource

    return SettingsSource(file=file).read()


def _warn(warnings: Any) -> None:
    for warning in warnings:
        typer.echo(f"lmx: {warning}", err=True)
