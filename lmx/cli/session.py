"""What commands share: the options of the connection, ``--json``, and how a failure is told.

A function becomes a command through `command`, which gives it a `Session` and adds ``--url``,
``--admin-key`` and ``--json`` to its own options. With ``--json`` standard output holds documents
and nothing else; everything for people goes to standard error then.
"""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.words import printable
from lmx.errors import ConfigError, LmxError

if TYPE_CHECKING:
    from lmx.cli.client import Client

# Without a terminal nobody's line is too narrow, and a cut id is of no use to a program.
PIPED_WIDTH = 1000

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The daemon's address. [OPTA_LMX_URL, LMX_URL, the settings]"),
]
AdminKeyOption = Annotated[
    str | None, typer.Option("--admin-key", help="[OPTA_ADMIN_KEY, the settings]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


class Session:
    """One run of a command.

    Args:
        url: The daemon's address as the command line says it.
        admin_key: As the command line says it.
        as_json: Print documents.

    Attributes:
        url: The same; so the two after it.
        admin_key: For the address.
        as_json: Of results.
        out: Standard output.
        err: Standard error.
    """

    def __init__(
        self, url: str | None = None, admin_key: str | None = None, *, as_json: bool = False
    ) -> None:
        self.url = url
        self.admin_key = admin_key
        self.as_json = as_json
        self.out = _console(is_error=False)
        self.err = _console(is_error=True)

    @cached_property
    def client(self) -> "Client":
        """The daemon.

        Raises:
            CommandFailed: Its address is none.
            ConfigError: The settings that say where it is cannot be read.
        """
        from lmx.cli.client import Client
        from lmx.cli.target import find_target

        return Client(find_target(self.url, self.admin_key))

    @property
    def is_terminal(self) -> bool:
        """Whether a person sits at both ends."""
        return sys.stdin.isatty() and sys.stdout.isatty()

    def show(self, document: Any, render: Callable[[], RenderableType]) -> None:
        """The command's result, in the form that was asked for."""
        if self.as_json:
            self.line(document)
        else:
            self.out.print(render())

    def line(self, document: Any) -> None:
        """One JSON document on a line of its own, at once."""
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A sentence for the person, beside the result."""
        self.err.print(text)

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; anything but yes is no, and so is Ctrl-D.

        Raises:
            CommandFailed: Nobody is there, `--yes` would have answered; or Ctrl-C was the answer.
        """
        if self.as_json or not sys.stdin.isatty():
            raise CommandFailed(f"{question} Say --yes to go ahead.", Exit.USAGE, "unconfirmed")
        try:
            self.err.print(f"{question} [y/N] ", end="")
            return input().strip().lower() in {"y", "yes"}
        except EOFError:
            self.err.print()
            return False
        except KeyboardInterrupt:
            self.err.print()
            raise CommandFailed("nothing was done", Exit.INTERRUPTED, "interrupted") from None

    def fail(self, failure: CommandFailed) -> None:
        """Tell why the command fails."""
        if self.as_json:
            error = {"code": failure.code, "message": failure.message}
            self.line({"error": error, "exit_status": int(failure.status)})
        typer.echo(f"lmx: {printable(failure.message)}", err=True)

    def close(self) -> None:
        """Close the connections, if there are any."""
        if "client" in self.__dict__:
            self.client.close()


def table(*columns: str, numbers: Iterable[str] = (), rows: Sequence[Sequence[str]]) -> Table:
    """A table without lines that a pipe can read; only the first column may break.

    Args:
        columns: Titles.
        numbers: Those that are aligned to the right.
        rows: Texts.
    """
    right = set(numbers)
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(columns):
        made.add_column(
            title,
            justify="right" if title in right else "left",
            no_wrap=index > 0,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def command(
    app: typer.Typer, name: str | None = None, **more: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function that takes a `Session` first a command of `app`.

    Args:
        app: Gets the command.
        name: What it is called by, if not by the function's name.
        more: For Typer.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(
            *args: Any,
            url: str | None = None,
            admin_key: str | None = None,
            as_json: bool = False,
            **own: Any,
        ) -> None:
            session = Session(url, admin_key, as_json=as_json)
            try:
                function(session, *args, **own)
            except CommandFailed as failure:
                _end(session, failure)
            except LmxError as error:
                status = Exit.CONFIG if isinstance(error, ConfigError) else Exit.FAILED
                _end(session, CommandFailed(error.message, status, error.code))
            finally:
                session.close()

        signature = inspect.signature(function, eval_str=True)
        _, *own_parameters = signature.parameters.values()
        shared = [
            _option("url", UrlOption, None),
            _option("admin_key", AdminKeyOption, None),
            _option("as_json", JsonOption, default=False),
        ]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own_parameters, *shared]
        )
        app.command(name, **more)(run)
        return function

    return decorate


def _end(session: Session, failure: CommandFailed) -> None:
    session.fail(failure)
    raise typer.Exit(int(failure.status)) from failure


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _console(*, is_error: bool) -> Console:
    stream = sys.stderr if is_error else sys.stdout
    return Console(
        stderr=is_error,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if stream.isatty() else PIPED_WIDTH,
    )
