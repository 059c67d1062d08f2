"""Every command of the README and the documentation runs, against a real daemon and real models."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_process import REPOSITORY, Daemon
from tests.doc_blocks import ENDLESS, NOT_RUN, PAGES, Block, blocks_of
from tests.doc_shims import make_sandbox
from tests.http.answers import post
from tests.http.shared import shared_daemon
from tests.http.wire import wait_until

BLOCK_LIMIT_S = 60
ENDLESS_S = 3
TIMED_OUT = 124
OURS = ("LMX_", "OPTA_")
WITH_EXAMPLES = [page for page in PAGES if any(blocks_of(page))]

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home(demo_home: Path, embedder_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``LMX_HOME`` with both models, whose files an example may delete without harm."""
    made = tmp_path_factory.mktemp("home")
    for source in {demo_home, embedder_home}:
        shutil.copytree(
            source / "models", made / "models", copy_function=os.link, dirs_exist_ok=True
        )
    return made


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    """A daemon with both models."""
    # The models are small and talk for ever.
    settings = {"LMX_MODELS__DEFAULT_MAX_TOKENS": "48"}
    with shared_daemon(home, "demo", "embedder", settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == 2, limit_s=60)
        yield shared


@pytest.fixture
def sandbox(daemon: Daemon, home: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Where examples run, and their environment."""
    programs = make_sandbox(tmp_path)
    for name in ("demo", "embedder"):  # a page before may have unloaded them
        assert 200 == post(daemon, "/admin/models/load", model_id=name).status
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(OURS)}
    venv = Path(sys.executable).parent
    return tmp_path, {
        **inherited,
        "HOME": str(tmp_path / "user"),
        "LMX_HOME": str(home),
        "LMX_URL": daemon.url,
        "PATH": f"{programs}:{venv}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_examples_run(page: Path, daemon: Daemon, sandbox: tuple[Path, dict[str, str]]) -> None:
    """In the order of the page, as a reader would type them."""
    for block in blocks_of(page):
        if not block.mark.startswith(NOT_RUN):
            run(block, daemon.url.removeprefix("http://"), *sandbox)


def run(block: Block, address: str, folder: Path, environment: dict[str, str]) -> None:
    """Run one example to its end."""
    text = block.at(address)
    command = ["bash", "-euo", "pipefail", "-c", text]
    if block.language == "python":
        command = [sys.executable, "-c", text]
    if block.mark == ENDLESS:
        command = ["timeout", "-s", "INT", str(ENDLESS_S), *command]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=BLOCK_LIMIT_S,
    )
    good = {0, TIMED_OUT} if block.mark == ENDLESS else {0}
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode in good, f"{block.place}\n{text}\n{said[-2000:]}"
    assert '"error":{' not in said, f"{block.place}\n{text}\n{said[-2000:]}"
