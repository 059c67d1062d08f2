"""``python -m opta_lmx.main [--config F] --host H --port P [--log-level L]``: the daemon.

Takes the arguments of ``lmx serve``. The process keeps the command line it was started with.
"""

import sys

from lmx.cli import main as lmx


def main() -> None:
    """Run ``lmx serve`` with this process's arguments."""
    lmx(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
