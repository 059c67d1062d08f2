"""``/admin/logs/sessions`` and ``updates``: what there is, and no file beside it."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from lmx.daemon.log_folders import CHUNK_BYTES, LogFolders
from lmx.errors import LogNotFound
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply

LONG = "x" * 99 + "\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With logs of two sessions, of no update, and things that are none."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "session-logs"
    (folder / "folder").mkdir(parents=True)
    (folder / "old.log").write_text("old\n")
    os.utime(folder / "old.log", (1_700_000_000, 1_700_000_000))
    (folder / "long é.log").write_text(LONG * (1 + 2 * CHUNK_BYTES // len(LONG)))
    os.utime(folder / "long é.log", (1_800_000_000, 1_800_000_000))
    (folder / "link.log").symlink_to("/etc/passwd")
    (home / "secret").write_text("secret\n")
    return home


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    """One that has these files."""
    with shared_daemon(home, "fake:x") as running:
        yield running


def get(daemon: Daemon, path: str) -> Reply:
    """An answer."""
    with Connection(daemon) as connection:
        return connection.ask("GET", path)


def test_the_listing_is_an_array_of_files(daemon: Daemon) -> None:
    """The newest first, with sizes and times; no folder, no link."""
    reply = get(daemon, "/admin/logs/sessions")
    assert (200, "application/json") == (reply.status, reply.headers["content-type"])
    long, old = reply.json()
    assert {"filename": "old.log", "size_bytes": 4, "created_at": "2023-11-14T22:13:20+00:00"} == (
        old
    )
    assert "long é.log" == long["filename"]
    assert 2027 == datetime.fromisoformat(long["created_at"]).year
    assert [] == get(daemon, "/admin/logs/updates").json()


def test_a_file_is_text(daemon: Daemon, home: Path) -> None:
    """Whole, however long, by its name as it is spelled in URLs."""
    reply = get(daemon, "/admin/logs/sessions/old.log")
    assert (200, b"old\n") == (reply.status, reply.body)
    assert "text/plain; charset=utf-8" == reply.headers["content-type"]
    reply = get(daemon, "/admin/logs/sessions/long%20%C3%A9.log")
    assert (home / "session-logs/long é.log").read_bytes() == reply.body


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "folder",
        "link.log",
        "old.log%00",
        "./old.log",
        "..",
        "x" * 5000,
    ],
)
def test_no_name_leads_anywhere_else(daemon: Daemon, name: str) -> None:
    """What is not listed is not found."""
    reply = get(daemon, f"/admin/logs/sessions/{name}")
    # A path that can be written shorter is sent there, which is no file either.
    assert reply.status in {308, 404}
    assert (b"secret\n" in reply.body, b"root:" in reply.body) == (False, False)
    if reply.status == 308:
        assert 404 == get(daemon, reply.headers["location"]).status


def test_the_daemons_own_log_is_one_of_a_session(tmp_path: Path) -> None:
    """With the files that were put away, wherever it is; of equal names, sessions' count."""
    own = tmp_path / "elsewhere" / "lmx.log"
    own.parent.mkdir()
    (tmp_path / "session-logs").mkdir()
    for path in (own, own.with_name("lmx.log.1"), own.with_name("lmx.log.3")):
        path.write_text(path.name)
    session = tmp_path / "session-logs/lmx.log.1"
    session.write_text("session")
    folders = LogFolders(tmp_path, own)
    assert {"lmx.log", "lmx.log.1"} == {row.filename for row in folders.rows("sessions")}
    assert (own, session) == tuple(
        folders.find("sessions", name) for name in ("lmx.log", "lmx.log.1")
    )
    assert [] == folders.rows("updates")
    own.unlink()
    with pytest.raises(LogNotFound):
        folders.find("sessions", "lmx.log")
