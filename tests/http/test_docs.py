"""``/docs`` in a real browser: every route stands there, details open, and nothing is logged.

Skipped where Chromium is not installed; `scripts/test` installs it where it may.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx import __version__
from lmx.schema.openapi import ROUTES, openapi_document
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--virtual-time-budget=5000",
    "--enable-logging=stderr",
)
LIMIT_S = 50
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Any daemon; the page knows no models."""
    with shared_daemon(tmp_path_factory.mktemp("home"), "fake:x") as shared:
        yield shared


def browse(daemon: Daemon, profile: Path, page: str) -> tuple[str, str]:
    """The document of a page after its scripts ran, and what the browser logged."""
    made = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", daemon.url + page],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return made.stdout, made.stderr


def console_lines(logged: str) -> list[str]:
    """What pages said on the console, among what the browser says of itself."""
    return [line for line in logged.splitlines() if "CONSOLE" in line]


def test_the_page_needs_nothing_from_elsewhere(daemon: Daemon) -> None:
    """One file of HTML; no address in it leads to another server."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", "/docs")
    assert (200, "text/html; charset=utf-8") == (reply.status, reply.headers["content-type"])
    assert b"http://" not in reply.body
    assert b"https://" not in reply.body


@needs_browser
def test_the_page_shows_every_route(daemon: Daemon, tmp_path: Path) -> None:
    """Routes and types are laid out, all closed, and the console stays silent."""
    page, logged = browse(daemon, tmp_path / "profile", "/docs")
    assert [] == console_lines(logged)
    shown = re.findall(
        r'<span class="method [a-z]+">([A-Z]+)</span><span class="path">([^<]+)</span>', page
    )
    assert [(route.method.upper(), route.path) for route in ROUTES] == shown
    types = openapi_document(__version__)["components"]["schemas"]
    assert list(types) == re.findall(r'<details id="type-(\w+)">', page)
    assert __version__ in page
    assert '<details open=""' not in page
    assert "undefined" not in page.partition("<script>")[0]


@needs_browser
def test_an_address_opens_one_route(daemon: Daemon, tmp_path: Path) -> None:
    """The part after the hash names a route, whose fields and answers are shown."""
    page, logged = browse(daemon, tmp_path / "profile", "/docs#post_v1_chat_completions")
    assert [] == console_lines(logged)
    [route_id] = re.findall(r'<details id="(\w+)" open="">', page)
    assert "post_v1_chat_completions" == route_id
    details = page.partition(f'id="{route_id}"')[2].partition("</details>")[0]
    fields = openapi_document(__version__)["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(fields) <= set(re.findall(r"<code>(\w+)</code>", details))
    assert 'href="#type-Message"' in details
    assert "text/event-stream" in details


@needs_browser
def test_the_console_would_be_heard(tmp_path: Path) -> None:
    """What the two tests above find empty is not empty when a page does log an error."""
    page = "data:text/html,<script>console.error('heard')</script>"
    made = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert "heard" in "".join(console_lines(made.stderr))
