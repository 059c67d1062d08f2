"""The CLI's sessions are read as they are found, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmx.catalog.sessions import SessionShelf, matches


def write(folder: Path, name: str, **fields: Any) -> None:
    """A session's file."""
    (folder / f"{name}.json").write_text(json.dumps(fields))


def test_sessions_are_listed_newest_first(tmp_path: Path) -> None:
    """Whatever is missing or of another kind is empty; what is no session is passed over."""
    write(tmp_path, "old", title="Old", created="2026-01-01", tags=["a", 3])
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "Hello there"}]},
        {"role": "assistant", "content": None, "tool_calls": [{}, {}]},
        "odd",
    ]
    write(tmp_path, "new", updated="2026-02-01", messages=messages, model="m", compacted=True)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    new, old = SessionShelf(tmp_path).read_all()
    assert ("new", "m", "Hello there", 2, 3, True) == (
        new.id,
        new.model,
        new.first_user_message,
        new.tool_call_count,
        len(new.messages),
        new.compacted,
    )
    assert ("old", "Old", ["a"], "2026-01-01", []) == (
        old.id,
        old.title,
        old.tags,
        old.updated,
        old.messages,
    )


def test_words_are_looked_for_everywhere(tmp_path: Path) -> None:
    """All of them, in whatever case."""
    write(tmp_path, "a", title="Trip", messages=[{"role": "user", "content": "To Oslo"}])
    (session,) = SessionShelf(tmp_path).read_all()
    assert [True, False, True] == [matches(session, q) for q in ("oslo TRIP", "oslo bergen", "")]


@pytest.mark.parametrize("name", ["../a", "a/b", ".", "..", "", ".hidden", "a\n", "a" * 200])
def test_an_id_is_no_path(tmp_path: Path, name: str) -> None:
    """Nothing outside the folder is read or deleted."""
    inner = tmp_path / "sessions"
    inner.mkdir()
    write(tmp_path, "a", title="outside")
    shelf = SessionShelf(inner)
    assert (None, False) == (shelf.read(name), shelf.delete(name))
    assert (tmp_path / "a.json").exists()


def test_a_session_is_deleted_once(tmp_path: Path) -> None:
    """The second time there is none."""
    write(tmp_path, "a")
    shelf = SessionShelf(tmp_path)
    assert [True, False] == [shelf.delete("a"), shelf.delete("a")]


def test_no_folder_is_no_sessions(tmp_path: Path) -> None:
    """The CLI may never have run here."""
    assert [] == SessionShelf(tmp_path / "none").read_all()
