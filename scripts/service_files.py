"""Renders `launchd/com.opta.lmx.plist` from the code that `lmx service install` renders with.

`--check` writes nothing and fails if the file differs.
"""

import sys
from pathlib import Path

from lmx.cli.service.job import EXAMPLE
from lmx.cli.service.launchd import LABEL, render_plist

FILE = Path(__file__).parent.parent / "launchd" / f"{LABEL}.plist"


def main() -> int:
    """Command line entry."""
    content = render_plist(EXAMPLE)
    if "--check" not in sys.argv[1:]:
        FILE.write_bytes(content)
    elif FILE.read_bytes() != content:
        print(f"{FILE} is stale: run `python scripts/service_files.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
