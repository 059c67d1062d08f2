"""What is typed at ``lmx chat``: lines with a history, and texts of several lines.

The history is kept in ``LMX_HOME/history``, readable by its owner alone.
"""

import os
import readline
from contextlib import suppress
from pathlib import Path

from lmx.config import home_directory

HISTORY_LINES = 1000
FIRST, NEXT = ">>> ", "... "
FENCE = '"""'
PRIVATE = 0o600


def history_file() -> Path:
    """Where lines are kept."""
    return home_directory(os.environ) / "history"


class ChatPrompt:
    """Reads from the terminal.

    Args:
        history: File of the lines before; made if it is missing.
    """

    def __init__(self, history: Path) -> None:
        self._history = history
        readline.set_history_length(HISTORY_LINES)
        with suppress(OSError):
            readline.read_history_file(history)

    def read(self) -> str:
        """One line, or all lines between two fences.

        Raises:
            EOFError: The person leaves.
            KeyboardInterrupt: The person presses Ctrl-C; what was typed is dropped.
        """
        line = input(FIRST)
        if not line.lstrip().startswith(FENCE):
            return line
        text = line.lstrip().removeprefix(FENCE)
        while not text.rstrip().endswith(FENCE):
            text += "\n" + input(NEXT)
        return text.rstrip().removesuffix(FENCE).strip("\n")

    def close(self) -> None:
        """Keep what was typed. A history that cannot be written is no reason to complain."""
        with suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=PRIVATE)
            self._history.chmod(PRIVATE)
            readline.write_history_file(self._history)
