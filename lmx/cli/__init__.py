"""The ``lmx`` command line. Each command imports what it needs, so that ``--help`` is fast."""

from lmx.cli.main import main

__all__ = ["main"]
