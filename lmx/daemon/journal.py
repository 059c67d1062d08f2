"""What was loaded, on disk, so that a daemon that was killed comes back with the same models.

Written after every change, read once at start. A clean stop says so, and nothing is restored after
it. A daemon that keeps dying soon after its start restores nothing either: what it loaded may be
why. Reads and writes files, so it runs off the event loop; a disk that is full costs the memory of
the loaded set and nothing else.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lmx.catalog.specs import ModelSpec
from lmx.daemon.model import LoadOptions
from lmx.daemon.replacing import replace_file

FILE_NAME = "loaded.json"
CRASH_LOOP_STARTS = 3
CRASH_LOOP_WINDOW_S = 600.0


class Entry(Struct, frozen=True):
    """One model that was wanted."""

    spec: ModelSpec
    options: LoadOptions


class Journal(Struct, frozen=True, kw_only=True):
    """The file's content.

    Attributes:
        is_clean: The daemon stopped as it was told to.
        unclean_starts: Epoch seconds of recent starts after which it did not.
        models: What was wanted last, in order of the loads.
    """

    is_clean: bool = False
    unclean_starts: Sequence[float] = ()
    models: Sequence[Entry] = ()


def journal_path(home: Path) -> Path:
    """Where the journal is."""
    return home / "state" / FILE_NAME


def read_journal(home: Path) -> Journal | None:
    """The journal, or `None` if there is none that can be read."""
    try:
        return msgspec.json.decode(journal_path(home).read_bytes(), type=Journal)
    except (OSError, msgspec.DecodeError):
        return None


def write_journal(home: Path, journal: Journal) -> None:
    """Replace the journal, whole or not at all.

    Raises:
        OSError: It cannot be written; the one before stays.
    """
    replace_file(journal_path(home), msgspec.json.encode(journal))


def begin(previous: Journal | None, now: float) -> tuple[Journal, Sequence[Entry], str]:
    """What a start means.

    Args:
        previous: What the last daemon left.
        now: Epoch seconds.

    Returns:
        The journal to go on with, what to load again, and a sentence for the log, empty if there is
        nothing to say.
    """
    if previous is None or previous.is_clean:
        return Journal(unclean_starts=()), (), ""
    recent = [at for at in previous.unclean_starts if 0 <= now - at < CRASH_LOOP_WINDOW_S]
    journal = Journal(unclean_starts=(*recent, now))
    if not previous.models:
        return journal, (), ""
    names = ", ".join(entry.spec.id for entry in previous.models)
    if len(journal.unclean_starts) > CRASH_LOOP_STARTS:
        return journal, (), f"the daemon keeps dying; not loaded again: {names}"
    return journal, previous.models, f"the daemon was killed; loading again: {names}"


def with_models(journal: Journal, entries: Iterable[Entry]) -> Journal:
    """The same with another loaded set."""
    return msgspec.structs.replace(journal, models=tuple(entries))
