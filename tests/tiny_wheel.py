"""A tiny wheel with a model directory in it, and a package index on this machine that offers it.

The index speaks as much of the simple repository API (PEP 503, with PEP 658 metadata) as pip needs
to name a wheel without fetching it, so every request for the wheel itself is the importer's own.
"""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmx.catalog.embedded import DirectoryContent, EmbeddedModel, PinnedWheel

NAME = "tiny-embedder"
VERSION = "1.0"
# What is in the model's folder of the wheel.
FILES = {
    "config.json": b'{"model_type": "bert", "architectures": ["BertModel"]}',
    "model.safetensors": bytes(range(256)) * 2000,
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}
# What is beside it and must never leave the wheel; the last two would, if names were places.
OTHERS = {
    "tiny_embedder/__init__.py": b"raise SystemExit('the code of a wheel was run')",
    "tiny_embedder/model/extra.bin": b"nobody asked for this",
    "tiny_embedder/model/../../../evil.txt": b"evil",
    "/evil.txt": b"evil",
}


def build_wheel(directory: Path, name: str = NAME, version: str = VERSION) -> Path:
    """A real wheel that pip recognises."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_")
    path = directory / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        info = f"{stem}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", _metadata(name, version))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
        for file, content in FILES.items():
            archive.writestr(f"tiny_embedder/model/{file}", content)
        for member, content in OTHERS.items():
            archive.writestr(member, content)
    return path


def embedded(wheel: Path, *, max_bytes: int = 1_000_000, without: str = "") -> EmbeddedModel:
    """The wheel as a row of the table of embedded models.

    Args:
        wheel: As `build_wheel` made it.
        max_bytes: What the row allows.
        without: A file that the row names but the wheel lacks.
    """
    files = {path: f"tiny_embedder/model/{path}" for path in (*FILES, *filter(None, [without]))}
    return EmbeddedModel(
        word="tiny",
        name="Tiny-Embedder",
        purpose="embedding",
        wheel=PinnedWheel(NAME, VERSION, hashlib.sha256(wheel.read_bytes()).hexdigest()),
        content=DirectoryContent(files, max_bytes, "float32"),
    )


def _metadata(name: str, version: str) -> str:
    # A dependency that would be missed if anybody looked for it.
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no-such-thing"


class LoopbackIndex(ThreadingHTTPServer):
    """Offers one wheel under one name.

    Attributes:
        asked: Set at the first request for the wheel.
        may_answer: Requests for the wheel wait for it.
        cuts: For each coming request for the wheel, the bytes of the body after which it is cut.
        ranges: The `Range` header of every request for the wheel.
        request_count: Of all kinds.
    """

    daemon_threads = True

    def __init__(self, wheel: Path, name: str, version: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wheel = wheel
        self.metadata = _metadata(name, version).encode()
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.request_count = 0


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackIndex

    def do_GET(self) -> None:
        index = self.server
        index.request_count += 1
        if self.path.startswith("/simple/"):
            self._send(self._page(), "text/html")
        elif self.path.endswith(".metadata"):
            self._send(index.metadata, "text/plain")
        else:
            self._send_wheel()

    def _page(self) -> bytes:
        file = self.server.wheel.name
        digest = hashlib.sha256(self.server.wheel.read_bytes()).hexdigest()
        link = f'<a href="/files/{file}#sha256={digest}" data-core-metadata="true">{file}</a>'
        return f"<!DOCTYPE html><html><body>{link}</body></html>".encode()

    def _send_wheel(self) -> None:
        index = self.server
        asked = self.headers.get("Range")
        index.ranges.append(asked)
        index.asked.set()
        index.may_answer.wait(30)
        content = index.wheel.read_bytes()
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: index.cuts.pop(0)] if index.cuts else body)
        self.close_connection = True

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@contextmanager
def open_index(
    wheel: Path, patch: pytest.MonkeyPatch, *, name: str = NAME, version: str = VERSION
) -> Iterator[LoopbackIndex]:
    """An index that is all pip knows of packages, on a free port, stopped at the end."""
    with LoopbackIndex(wheel, name, version) as index:
        thread = threading.Thread(target=index.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            patch.delenv(variable, raising=False)
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.server_port}/simple/")
        patch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield index
        finally:
            index.may_answer.set()
            index.shutdown()
            thread.join()
