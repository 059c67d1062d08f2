"""What tests of the command line talk to: a daemon of a few lines, and a way to run a command.

The daemon is a thread with the standard library's HTTP server on a free port of 127.0.0.1. It
answers from a table and remembers what it was asked.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote

from typer.testing import CliRunner

from lmx.cli.main import app


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    query: str
    body: Any
    headers: Mapping[str, str]


Answer = Any  # a document, `(status, document)`, bytes of a stream, or a function of `Asked`


class FakeDaemon:
    """Answers by a table.

    Attributes:
        url: Where it answers.
        answers: ``"GET /path"`` to what is answered: a document, a status with one, the bytes of a
            stream, or a function that makes one of these of the request. A list is used up.
        asked: Requests, in order.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> tuple[int, Any]:
        """What to say."""
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}")
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if callable(found):
            found = found(asked)
        if found is None:
            return 404, refusal("not_found", f"there is no {asked.path}")
        return found if isinstance(found, tuple) else (200, found)

    def bodies(self, route: str) -> list[Any]:
        """What a route was sent."""
        return [one.body for one in self.asked if route == f"{one.method} {one.path}"]


def refusal(code: str, message: str) -> dict[str, Any]:
    """The envelope of an error."""
    return {"code": code, "error": {"message": message, "type": "x", "param": None, "code": code}}


def sse(*documents: Any) -> bytes:
    """A whole stream."""
    frames = [f"data: {json.dumps(document)}\n\n" for document in documents]
    return "".join([": hello\n\n", *frames, "data: [DONE]\n\n"]).encode()


@contextmanager
def fake_daemon() -> Iterator[FakeDaemon]:
    """A daemon that answers until the block ends."""
    server = _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    daemon = FakeDaemon(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = _handler(daemon.answer)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield daemon
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


def run_lmx(
    *arguments: str,
    home: Path,
    daemon: FakeDaemon | None = None,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a command in this process, without a terminal.

    Args:
        arguments: After ``lmx``.
        home: Its ``LMX_HOME``.
        daemon: The one it should talk to.
        stdin: What is typed.
        environment: More variables.
    """
    address = {} if daemon is None else {"OPTA_LMX_URL": daemon.url}
    own = {"LMX_HOME": str(home), "COLUMNS": "80", **address, **(environment or {})}
    result = CliRunner().invoke(app, list(arguments), input=stdin, env=own)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests are about."""


def _handler(answer: Callable[[Asked], tuple[int, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def do_DELETE(self) -> None:
            self._do()

        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            data = self.rfile.read(length)
            path, _, query = self.path.partition("?")
            body = json.loads(data) if data else None
            asked = Asked(self.command, unquote(path), query, body, dict(self.headers))
            status, document = answer(asked)
            is_stream = isinstance(document, bytes)
            reply = document if is_stream else json.dumps(document).encode()
            self.send_response(status)
            kind = "text/event-stream" if is_stream else "application/json"
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its own name
            pass

    return Handler
