"""``python -m lmx`` is the ``lmx`` command."""

from lmx.cli import main

if __name__ == "__main__":
    main()
