"""Arguments and options that several commands have."""

from collections.abc import Callable
from typing import Annotated

import typer

from lmx.cli.completion import complete_loaded, complete_models

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An id, or what comes close to one.",
        autocompletion=complete_models,
        show_default=False,
    ),
]
LoadedArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A loaded model's id, or what comes close to it.",
        autocompletion=complete_loaded,
        show_default=False,
    ),
]
LoadedOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model's id. [the first loaded]", autocompletion=complete_models
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def one_of(*allowed: int) -> Callable[[int], int]:
    """What refuses every number but these, for an option's ``callback``."""

    def check(value: int) -> int:
        if value not in allowed:
            raise typer.BadParameter(f"{value} is none of {', '.join(map(str, allowed))}.")
        return value

    return check
