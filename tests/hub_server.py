"""A hub of models on this machine: as much of the Hugging Face hub's API as downloads need.

Large files are redirected to another origin, as the hub does with its storage, so that a test sees
whether a token goes where it should not. Switches make it as unreliable as networks are. Everything
that was asked is noted, with the bytes that were really sent.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", ".gguf", ".bin")
BLOCK_BYTES = 16 * 1024
WAIT_LIMIT_S = 30.0

Files = dict[str, bytes]


@dataclass
class Asked:
    """One request for a file's content.

    Attributes:
        path: Of the file.
        range: The header, if there was one.
        token: The authorization, if there was one.
        is_storage: It came to the other origin.
        sent: Bytes of the content that were sent.
    """

    path: str
    range: str | None
    token: str | None
    is_storage: bool
    sent: int = 0


@dataclass
class Faults:
    """What goes wrong; lists hold one entry per coming request.

    Attributes:
        cuts: Bytes of a large file after which the connection is cut.
        statuses: Refusals of large files, each with headers.
        api_statuses: Refusals of questions about repositories.
        garbled: Paths whose content has a wrong byte.
        hides_digests: The list of files names neither lengths nor digests.
        ignores_ranges: Every answer is whole.
        length_error: What the length in the head is wrong by.
        hold_after: Bytes of a large file after which nothing comes until `may_go` is set.
        answers: What is answered to every question, instead of the truth.
    """

    cuts: list[int] = field(default_factory=list)
    statuses: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    api_statuses: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    garbled: set[str] = field(default_factory=set)
    hides_digests: bool = False
    ignores_ranges: bool = False
    length_error: int = 0
    hold_after: int | None = None
    answers: bytes | None = None


class LoopbackHub(ThreadingHTTPServer):
    """Serves repositories that are in memory.

    Attributes:
        repositories: Files by path, by the repository's id.
        faults: What goes wrong.
        token: What opens the repositories; none is needed without.
        asked: Requests for content, in order.
        question_count: Questions about repositories.
        held: Set when a large file has come to `hold_after`.
        may_go: What a held answer waits for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Files] = {}
        self.faults = Faults()
        self.token: str | None = None
        self.asked: list[Asked] = []
        self.question_count = 0
        self.held = threading.Event()
        self.may_go = threading.Event()

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to know this hub and no other."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token or "",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "" if self.token else "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def add(self, repo_id: str, files: Files | Path) -> Files:
        """Serve some files, or those of a directory."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in sorted(files.iterdir())}
        self.repositories[repo_id] = files
        return files

    def sent(self, path: str) -> int:
        """Bytes of a file that were sent, of all requests together."""
        return sum(one.sent for one in self.asked if one.path == path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._answer_question(path.removeprefix("/api/models/"))
        elif path.startswith("/storage/"):
            self._answer_file(path.removeprefix("/storage/"), is_storage=True)
        else:
            self._answer_file(path.removeprefix("/").replace(f"/resolve/{COMMIT}/", "//"))

    def _answer_question(self, rest: str) -> None:
        self.server.question_count += 1
        faults = self.server.faults
        if faults.api_statuses:
            status, headers = faults.api_statuses.pop(0)
            return self._refuse(status, headers)
        if faults.answers is not None:
            return self._send(faults.answers, {"Content-Type": "application/json"})
        repo_id, _, revision = rest.partition("/revision/")
        if not self._is_let_in() or repo_id not in self.server.repositories:
            return self._refuse(401, {"X-Error-Code": "RepoNotFound"})
        if revision not in {"", "main", COMMIT}:
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        files = self.server.repositories[repo_id]
        siblings = [self._describe(path, content) for path, content in files.items()]
        document = {"id": repo_id, "sha": COMMIT, "siblings": siblings}
        return self._send(json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _describe(self, path: str, content: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"rfilename": path}
        if self.server.faults.hides_digests:
            return row
        row |= {"size": len(content), "blobId": git_sha1(content)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        return row

    def _answer_file(self, place: str, *, is_storage: bool = False) -> None:
        repo_id, _, path = place.partition("//")
        content = self.server.repositories.get(repo_id, {}).get(path)
        if content is None or not (is_storage or self._is_let_in()):
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        is_large = path.endswith(LARGE)
        digest = hashlib.sha256(content).hexdigest() if is_large else git_sha1(content)
        if is_large and not is_storage:
            return self._redirect(place, {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
            })  # fmt: skip
        if self.command == "HEAD":
            head = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
            return self._send(content, head)
        asked = Asked(
            path, self.headers.get("Range"), self.headers.get("Authorization"), is_storage
        )
        self.server.asked.append(asked)
        if is_large and self.server.faults.statuses:
            return self._refuse(*self.server.faults.statuses.pop(0))
        return self._send_content(asked, content, is_large=is_large)

    def _send_content(self, asked: Asked, content: bytes, *, is_large: bool) -> None:
        faults = self.server.faults
        if asked.path in faults.garbled:
            content = bytes([content[0] ^ 1]) + content[1:]
        start, end = 0, len(content)
        is_range = asked.range is not None and not faults.ignores_ranges
        if asked.range is not None and is_range:
            first, _, last = asked.range.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1 if last else end)
        if start >= len(content) > 0:
            return self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {})
        self.send_response(HTTPStatus.PARTIAL_CONTENT if is_range else HTTPStatus.OK)
        error = faults.length_error if is_large else 0
        self.send_header("Content-Length", str(end - start + error))
        if is_range:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        cut = faults.cuts.pop(0) if is_large and faults.cuts else None
        self._send_body(asked, content[start:end][:cut], may_hold=is_large)
        self.close_connection = cut is not None or error != 0
        return None

    def _send_body(self, asked: Asked, body: bytes, *, may_hold: bool) -> None:
        hold_after = self.server.faults.hold_after if may_hold else None
        for at in range(0, len(body), BLOCK_BYTES):
            if hold_after is not None and at >= hold_after:
                self.server.held.set()
                self.server.may_go.wait(WAIT_LIMIT_S)
            block = body[at : at + BLOCK_BYTES]
            self.wfile.write(block)
            asked.sent += len(block)

    def _is_let_in(self) -> bool:
        token = self.server.token
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _redirect(self, place: str, headers: Mapping[str, str]) -> None:
        # The same machine under another name: another origin for whoever holds a token.
        storage = f"http://localhost:{self.server.server_port}/storage/{place}"
        self._refuse(HTTPStatus.FOUND, {**headers, "Location": storage})

    def _refuse(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def git_sha1(content: bytes) -> str:
    """What git names a content by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def open_hub() -> Iterator[LoopbackHub]:
    """A hub on a free port, stopped at the end."""
    with LoopbackHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.may_go.set()
            hub.shutdown()
            thread.join()


def weights(size_bytes: int) -> bytes:
    """Content that is not the same anywhere."""
    block = hashlib.sha256(str(size_bytes).encode()).digest()
    made = bytearray()
    while len(made) < size_bytes:
        block = hashlib.sha256(block).digest()
        made += block
    return bytes(made[:size_bytes])


def mlx_files(size_bytes: int = 300_000) -> Files:
    """What looks like a repository with an MLX model, and what is beside one."""
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "tokenizer.json": b"{}",
        "model.safetensors": weights(size_bytes),
        "pytorch_model.bin": b"a pickle",
        "README.md": b"hello",
        ".gitattributes": b"*.bin filter=lfs",
    }
