"""What a service manager is to run, whichever it is. Plain values and where they come from."""

import argparse
import getpass
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct

from lmx.cli.exits import CommandFailed, Exit
from lmx.config import Settings, home_directory

MODULE = "opta_lmx.main"
LOG_NAME = "opta-lmx.log"
# Homebrew's first, as a login shell has them.
SYSTEM_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# Where models are looked for; no other variable goes into a file, for it may be a key.
CARRIED_VARIABLES = ("HF_HOME", "HF_HUB_CACHE")
# The least time that a stop gets, and what it gets beyond the daemon's own limits.
STOP_LIMIT_S = 120
STOP_MARGIN_S = 60


class Job(Struct, frozen=True, kw_only=True):
    """A daemon as a service.

    Attributes:
        python: The interpreter that has LMX.
        arguments: Of ``lmx serve``.
        home: ``LMX_HOME``.
        user_home: The home directory of the user it runs as.
        log_directory: Where log files belong; `None` for a journal.
        log_file: Where the daemon's own log belongs, unless its settings say that.
        user: The user it runs as, for a service of the system; `None` for one of a user.
        carried: Further environment.
        stop_limit_s: Time between the request to stop and its end by force.
    """

    python: str
    arguments: tuple[str, ...] = ()
    home: str
    user_home: str
    log_directory: str | None = None
    log_file: str | None = None
    user: str | None = None
    carried: Mapping[str, str] = {}
    stop_limit_s: int = STOP_LIMIT_S

    @property
    def command(self) -> list[str]:
        """What is started."""
        return [self.python, "-m", MODULE, *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        """What it finds in its environment, whoever starts it."""
        path = f"{Path(self.python).parent}:{SYSTEM_PATH}"
        return {"HOME": self.user_home, "PATH": path, "LMX_HOME": self.home, **self.carried}


class _Parser(argparse.ArgumentParser):
    """Tells of a mistake as commands do."""

    def error(self, message: str) -> NoReturn:
        raise CommandFailed(f"{message}; `lmx serve --help` lists them", Exit.USAGE, "usage")


class ServeArguments(Struct, frozen=True):
    """Arguments of ``lmx serve`` for a service.

    Attributes:
        words: As its command line has them, with paths that mean the same from everywhere.
        config: The configuration file, if one is named.
        server: What they say of the section of that name.
    """

    words: tuple[str, ...]
    config: Path | None
    server: Mapping[str, Any]


def parse_serve_arguments(words: Sequence[str]) -> ServeArguments:
    """Read arguments of ``lmx serve``, so that a service is not started with a mistake in them.

    Raises:
        CommandFailed: They are none.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, prog="lmx serve")
    parser.add_argument("--config", type=lambda text: Path(text).expanduser().absolute())
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--backend")
    parser.add_argument("--log-level")
    read = parser.parse_args(list(words))
    single = {"--config": read.config, "--host": read.host, "--port": read.port}
    single |= {"--backend": read.backend, "--log-level": read.log_level}
    pairs = [(name, str(value)) for name, value in single.items() if value is not None]
    pairs += [("--model", model) for model in read.model]
    server = {"host": read.host, "port": read.port}
    return ServeArguments(
        tuple(word for pair in pairs for word in pair),
        read.config,
        {key: value for key, value in server.items() if value is not None},
    )


# What the property list in the repository is rendered from.
EXAMPLE = Job(
    python="/Users/you/lmx/.venv/bin/python",
    home="/Users/you/.opta-lmx",
    user_home="/Users/you",
    log_directory="/tmp",  # noqa: S108  # the documented place
    log_file=f"/tmp/{LOG_NAME}",  # noqa: S108
)


class Account(Struct, frozen=True):
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    home: str


def find_account(name: str) -> Account:
    """A user by name.

    Raises:
        CommandFailed: There is none of that name.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        how = "sysadminctl -addUser" if sys.platform == "darwin" else "useradd --create-home"
        raise CommandFailed(
            f"there is no user {name!r}; make one (`sudo {how} {name}`) or name another with --user"
        ) from None
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def service_account(user: str | None, *, is_system: bool) -> Account:
    """Whom the service runs as.

    Args:
        user: As the command line names it.
        is_system: A service of the system.

    Raises:
        CommandFailed: It cannot be installed by or for them; the message says what can.
    """
    if not is_system:
        if user is not None:
            raise CommandFailed(
                "--user is for services of the system; add --system", Exit.USAGE, "usage"
            )
        return Account(getpass.getuser(), os.getuid(), os.getgid(), str(Path.home()))
    name = user or os.environ.get("SUDO_USER")
    if os.geteuid() != 0:
        shown = name or "NAME"
        raise CommandFailed(
            "a service of the system needs root: "
            f"sudo {sys.executable} -m lmx service install --system --user {shown}",
            code="not-root",
        )
    if not name:
        raise CommandFailed(
            "say with --user NAME whom it is to run as; models and skills need no root",
            Exit.USAGE,
            "usage",
        )
    return find_account(name)


def service_home(account: Account) -> Path:
    """``LMX_HOME`` of a service: as the environment says, else below its user's home.

    Raises:
        CommandFailed: The user has no home, and the environment does not say.
    """
    if variable := os.environ.get("LMX_HOME"):
        return home_directory({"LMX_HOME": variable})
    if not Path(account.home).is_dir():
        raise CommandFailed(
            f"user {account.name} has no home directory; say where LMX may keep its state with "
            "LMX_HOME=/some/directory"
        )
    return Path(account.home) / ".opta-lmx"


def make_job(
    account: Account,
    settings: Settings,
    arguments: tuple[str, ...],
    *,
    is_system: bool,
    log_directory: str | None,
) -> Job:
    """The job of this interpreter for a user.

    Args:
        account: The user.
        settings: As the service will have them.
        arguments: Of ``lmx serve``.
        is_system: A service of the system.
        log_directory: Where its log files belong, if it has any.
    """
    has_file = log_directory is not None and settings.logging.file is None
    longest_s = settings.server.drain_s + settings.server.close_grace_s + STOP_MARGIN_S
    return Job(
        python=sys.executable,
        arguments=arguments,
        home=str(settings.home),
        user_home=account.home,
        log_directory=log_directory,
        log_file=f"{log_directory}/{LOG_NAME}" if has_file else None,
        user=account.name if is_system else None,
        carried={name: os.environ[name] for name in CARRIED_VARIABLES if os.environ.get(name)},
        stop_limit_s=max(STOP_LIMIT_S, int(longest_s)),
    )
