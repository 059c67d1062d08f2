"""How commands end: statuses that scripts can rely on, and the one error that carries them.

`docs/cli.md` lists the statuses. What a command cannot do is a `CommandFailed` with one sentence;
turning that into output is for `lmx.cli.session`.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    NOT_FOUND = 5
    NO_ROOM = 6
    ALREADY_RUNNING = 75  # EX_TEMPFAIL
    CONFIG = 78  # EX_CONFIG of sysexits.h
    INTERRUPTED = 130  # as shells report SIGINT


class CommandFailed(Exception):
    """A command cannot do what was asked.

    Args:
        message: One sentence for the person at the terminal.
        status: What the process ends with.
        code: The daemon's code, or a word of ours; programs branch on it.
    """

    def __init__(self, message: str, status: Exit = Exit.FAILED, code: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
