"""The real embedded models, imported once per checkout; the first time needs a network."""

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
    return import_model("demo")


@pytest.fixture(scope="session")
def embedder_home() -> Path:
    """An ``LMX_HOME`` that holds the embedder."""
    return import_model("embedder")


def import_model(word: str) -> Path:
    """Have a model imported by the command that users run; gives the ``LMX_HOME``."""
    home = Path(os.environ.get("LMX_TEST_HOME") or REPOSITORY / ".lmx-test")
    subprocess.run(
        [sys.executable, "-m", "lmx", "import", word],
        check=True,
        env={**os.environ, "LMX_HOME": str(home)},
        timeout=IMPORT_LIMIT_S,
    )
    return home
