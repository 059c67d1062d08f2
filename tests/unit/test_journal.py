"""What a start makes of what the last daemon left behind."""

from pathlib import Path

import pytest

from lmx.catalog.specs import ModelSpec
from lmx.daemon.journal import (
    CRASH_LOOP_STARTS,
    CRASH_LOOP_WINDOW_S,
    Entry,
    Journal,
    begin,
    journal_path,
    read_journal,
    with_models,
    write_journal,
)
from lmx.daemon.model import LoadOptions

NOW = 1_000_000.0
ENTRIES = (
    Entry(ModelSpec("a", "fake", "tokens=3", ("b",)), LoadOptions(keep_alive_s=-1.0)),
    Entry(ModelSpec("org/m", "id", "org/m"), LoadOptions(performance={"batch": 3})),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Models, options and order survive; each write replaces the one before."""
    assert None is read_journal(tmp_path)
    for journal in (Journal(models=ENTRIES, unclean_starts=(1.0,)), Journal(is_clean=True)):
        write_journal(tmp_path, journal)
        found = read_journal(tmp_path)
        assert found is not None
        assert (journal.is_clean, list(journal.unclean_starts), list(journal.models)) == (
            found.is_clean,
            list(found.unclean_starts),
            list(found.models),
        )
    assert [journal_path(tmp_path)] == list(journal_path(tmp_path).parent.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"models": [{"spec": 3}]}', b"\xff\xfe", b'{"is_clean": "x"}']
)
def test_a_damaged_file_is_none(content: bytes, tmp_path: Path) -> None:
    """Whatever the disk made of it, the daemon starts."""
    write_journal(tmp_path, Journal(models=ENTRIES))
    journal_path(tmp_path).write_bytes(content)
    assert None is read_journal(tmp_path)


def test_a_write_that_fails_keeps_the_one_before(tmp_path: Path) -> None:
    """The file is replaced whole or not at all."""
    write_journal(tmp_path, Journal(models=ENTRIES))
    journal_path(tmp_path).with_suffix(".partial").mkdir()
    with pytest.raises(OSError, match="partial"):
        write_journal(tmp_path, Journal())
    found = read_journal(tmp_path)
    assert found is not None
    assert list(ENTRIES) == list(found.models)


@pytest.mark.parametrize("previous", [None, Journal(is_clean=True, models=ENTRIES)])
def test_after_a_clean_stop_nothing_comes_back(previous: Journal | None) -> None:
    """The first start of all is like one after a clean stop."""
    assert (Journal(), (), "") == begin(previous, NOW)


def test_after_a_kill_everything_comes_back() -> None:
    """With a line that says so, and the start is noted."""
    journal, entries, remark = begin(Journal(models=ENTRIES), NOW)
    assert (ENTRIES, (NOW,)) == (entries, journal.unclean_starts)
    assert "killed; loading again: a, org/m" in remark
    assert ENTRIES == with_models(journal, entries).models


def test_a_kill_without_models_is_no_news() -> None:
    """There is nothing to load and nothing to say; it counts all the same."""
    journal, entries, remark = begin(Journal(), NOW)
    assert ((NOW,), (), "") == (journal.unclean_starts, entries, remark)


@pytest.mark.parametrize(
    ("apart_s", "comes_back"), [(1.0, False), (CRASH_LOOP_WINDOW_S / CRASH_LOOP_STARTS + 1, True)]
)
def test_a_daemon_that_keeps_dying_loads_nothing(
    apart_s: float,
    comes_back: bool,  # noqa: FBT001
) -> None:
    """Deaths in quick succession end it, deaths far apart do not."""
    left = Journal(models=ENTRIES)
    for number in range(CRASH_LOOP_STARTS):
        journal, entries, _ = begin(left, NOW + number * apart_s)
        assert ENTRIES == entries
        left = with_models(journal, entries)
    _, entries, remark = begin(left, NOW + CRASH_LOOP_STARTS * apart_s)
    assert comes_back is (entries == ENTRIES)
    assert comes_back is ("keeps dying" not in remark)


def test_a_clock_that_went_back_is_no_crash_loop() -> None:
    """Starts from the future count for nothing."""
    left = Journal(models=ENTRIES, unclean_starts=(NOW + 1,) * 10)
    assert ENTRIES == begin(left, NOW)[1]
