"""``python -m opta_lmx`` is ``python -m opta_lmx.main``."""

from opta_lmx.main import main

if __name__ == "__main__":
    main()
