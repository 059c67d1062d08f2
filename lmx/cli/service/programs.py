"""Running the system's own programs, found on ``PATH``, with a limit and their words kept."""

import shutil
import subprocess

from msgspec import Struct

from lmx.cli.exits import CommandFailed

# A stop may wait for a drain.
LIMIT_S = 300.0


class Ran(Struct, frozen=True):
    """How a program ended.

    Attributes:
        command: As one would type it.
        status: Its exit status.
        output: What it said, on both streams.
    """

    command: str
    status: int
    output: str

    @property
    def is_ok(self) -> bool:
        """Whether it did what it was asked."""
        return self.status == 0

    def require(self, hint: str = "") -> "Ran":
        """Go on only if it did.

        Raises:
            CommandFailed: It did not; the message holds its words.
        """
        if self.is_ok:
            return self
        said = " ".join(self.output.split()) or "nothing"
        advice = f". {hint}" if hint else ""
        raise CommandFailed(
            f"`{self.command}` ended with status {self.status} and said: {said}{advice}",
            code="service-manager-failed",
        )


def has_program(name: str) -> bool:
    """Whether it is on ``PATH``."""
    return shutil.which(name) is not None


def run_program(*command: str) -> Ran:
    """Run a program to its end.

    Raises:
        CommandFailed: It is not there, or does not end.
    """
    path = shutil.which(command[0])
    if path is None:
        raise CommandFailed(f"{command[0]} is not on PATH", code="no-service-manager")
    shown = " ".join(command)
    try:
        ended = subprocess.run(  # noqa: S603  # the system's program, with arguments of ours
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"`{shown}` did not end within {LIMIT_S:.0f} s") from error
    output = (ended.stdout + ended.stderr).decode("utf-8", "replace").strip()
    return Ran(shown, ended.returncode, output)
