"""``/admin/logs``: the daemon's last log lines, and files with logs, on Quart."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import trio
from quart import Blueprint, Response, request

from lmx.daemon.log_folders import CHUNK_BYTES, LogFileRow, LogFolders, LogKind
from lmx.daemon.log_tail import LogTail
from lmx.errors import LogNotFound
from lmx.schema.logs import LogFile, LogTailReply, parse_log_tail_query
from lmx.web.bodies import json_response


def log_routes(log_tail: LogTail, folders: LogFolders) -> Blueprint:
    """The routes.

    Args:
        log_tail: Has the lines.
        folders: Has the files.
    """
    routes = Blueprint("logs", __name__, url_prefix="/admin/logs")

    @routes.get("/tail")
    async def show_tail() -> Response:
        query = parse_log_tail_query(request.args)
        reply = LogTailReply(lines=log_tail.last(query.lines))
        return json_response(reply)

    @routes.get("/sessions")
    async def list_sessions() -> Response:
        return await _listing(folders, "sessions")

    @routes.get("/updates")
    async def list_updates() -> Response:
        return await _listing(folders, "updates")

    @routes.get("/sessions/<path:filename>")
    async def show_session(filename: str) -> Response:
        return await _text(folders, "sessions", filename)

    @routes.get("/updates/<path:filename>")
    async def show_update(filename: str) -> Response:
        return await _text(folders, "updates", filename)

    return routes


async def _listing(folders: LogFolders, kind: LogKind) -> Response:
    rows = await trio.to_thread.run_sync(folders.rows, kind)
    return json_response([_spell(row) for row in rows])


def _spell(row: LogFileRow) -> LogFile:
    written = datetime.fromtimestamp(row.written_at, UTC)
    created_at = written.isoformat(timespec="seconds")
    return LogFile(filename=row.filename, size_bytes=row.size_bytes, created_at=created_at)


async def _text(folders: LogFolders, kind: LogKind, filename: str) -> Response:
    path = await trio.to_thread.run_sync(folders.find, kind, filename)
    try:
        first = await _read(path, 0)
    except OSError as error:
        raise LogNotFound(f"The log {filename!r} cannot be read: {error.strerror}") from error
    return Response(_chunks(path, first), content_type="text/plain; charset=utf-8")


async def _chunks(path: Path, chunk: bytes) -> AsyncIterator[bytes]:
    """A file's bytes as far as it goes now; a log that is rotated meanwhile ends there."""
    offset = 0
    while chunk:
        yield chunk
        offset += len(chunk)
        try:
            chunk = await _read(path, offset)
        except OSError:
            return


async def _read(path: Path, offset: int) -> bytes:
    async with await trio.open_file(path, "rb") as file:
        await file.seek(offset)
        return await file.read(CHUNK_BYTES)
