"""The CLI's past sessions: one JSON file each, in a folder that belongs to the CLI.

Read as they are found, for listing, searching and deleting; nothing is ever written. A file that
is no session is passed over. Source: the files ``<id>.json`` below ``~/.config/opta/sessions``.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

FOLDER = Path("~/.config/opta/sessions")
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_FILES = 2000
FIRST_MESSAGE_CHARS = 200
SESSION_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


class Session(Struct, frozen=True, kw_only=True):
    """A session as its file says it; dates are ISO strings.

    Attributes:
        id: The file's name without its ending.
        messages: Turns as they are.
    """

    id: str
    title: str
    model: str
    tags: list[str]
    created: str
    updated: str
    cwd: str
    compacted: bool
    messages: list[Mapping[str, Any]]

    @property
    def first_user_message(self) -> str:
        """How the conversation began."""
        texts = (message_text(m) for m in self.messages if m.get("role") == "user")
        return next(texts, "")[:FIRST_MESSAGE_CHARS]

    @property
    def tool_call_count(self) -> int:
        """Calls of tools in all turns."""
        calls = (message.get("tool_calls") for message in self.messages)
        return sum(len(made) for made in calls if isinstance(made, list))


class SessionShelf:
    """The folder.

    Args:
        folder: Where the files are; it need not exist.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder.expanduser()

    def read_all(self) -> list[Session]:
        """Every session, the one that changed last first."""
        found = [session for session in map(read_session, self._files()) if session is not None]
        return sorted(found, key=lambda session: session.updated, reverse=True)

    def read(self, session_id: str) -> Session | None:
        """One of them."""
        path = self._path(session_id)
        return None if path is None else read_session(path)

    def delete(self, session_id: str) -> bool:
        """Delete one.

        Returns:
            Whether it was there.

        Raises:
            OSError: It cannot be deleted.
        """
        path = self._path(session_id)
        if path is None or not path.is_file():
            return False
        path.unlink()
        return True

    def _path(self, session_id: str) -> Path | None:
        """A session's file, for an id that is the name of one and of nothing else."""
        if SESSION_ID.match(session_id) is None:
            return None
        return self._folder / f"{session_id}.json"

    def _files(self) -> Iterator[Path]:
        try:
            paths = [path for path in self._folder.glob("*.json") if SESSION_ID.match(path.stem)]
        except OSError:
            return
        yield from sorted(paths)[:MAX_FILES]


def read_session(path: Path) -> Session | None:
    """A session's file, or nothing where it is none."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_FILE_BYTES:
            return None
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    messages = document.get("messages")
    tags = document.get("tags")
    created = _text(document, "created") or _text(document, "created_at")
    return Session(
        id=path.stem,
        title=_text(document, "title"),
        model=_text(document, "model"),
        tags=[tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        created=created,
        updated=_text(document, "updated") or _text(document, "updated_at") or created,
        cwd=_text(document, "cwd"),
        compacted=document.get("compacted") is True,
        messages=[m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else [],
    )


def message_text(message: Mapping[str, Any]) -> str:
    """What a turn says, of the parts that are text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))


def matches(session: Session, query: str) -> bool:
    """Whether every word of a query stands in a session, in whatever case."""
    texts = [session.title, session.model, *session.tags, *map(message_text, session.messages)]
    whole = "\n".join(texts).lower()
    return all(word in whole for word in query.lower().split())


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
