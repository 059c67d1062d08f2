"""Putting a service in place whole or not at all, and taking it away.

A new file is checked beside its place before it replaces the old one. If the manager then refuses
it, the old file comes back and runs again, as if nothing had been tried.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lmx.cli.exits import CommandFailed
from lmx.cli.service.job import Account, Job
from lmx.cli.service.manager import Manager

# Told of each thing that was done, as a sentence.
Report = Callable[[str], None]


def install(manager: Manager, job: Job, account: Account, *, report: Report) -> bool:
    """Make the job a running service.

    Args:
        manager: Where.
        job: What.
        account: Owns the directories that it needs.
        report: Told of each step.

    Returns:
        Whether anything had to be done.

    Raises:
        CommandFailed: It could not be done; what was there before is there again.
    """
    content = manager.render(job)
    before = manager.state()
    old = _read(manager.path)
    if old == content and before.is_running:
        report(f"{manager.path} is in place and the service runs; nothing to do")
        return False
    for folder in filter(None, (job.home, job.log_directory)):
        _make_folder(Path(folder), account, report)
    try:
        _put(manager, content, report, was_loaded=before.is_loaded)
    except OSError as error:
        raise CommandFailed(
            f"{error.filename or manager.path} cannot be written: {error.strerror}"
        ) from error
    try:
        manager.load()
    except CommandFailed as failure:
        _restore(manager, old, report, was_loaded=before.is_loaded)
        failure.message += ". What was there before is back"
        raise
    report(f"{manager.name} has started the service, and will at every boot or login")
    return True


def uninstall(manager: Manager, report: Report) -> bool:
    """Stop the service and remove its file; the state of LMX stays.

    Returns:
        Whether there was one.

    Raises:
        CommandFailed: It could not be done.
    """
    state = manager.state()
    if not state.is_installed and not state.is_loaded:
        report("the service is not installed; nothing to do")
        return False
    if state.is_loaded:
        manager.unload()
        report("the service has stopped")
    try:
        manager.path.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{manager.path} cannot be removed: {error.strerror}") from error
    manager.forget()
    report(f"{manager.path} is removed")
    return True


def _put(manager: Manager, content: bytes, report: Report, *, was_loaded: bool) -> None:
    """Check the file, stop what runs from the old one, and replace it."""
    manager.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=manager.path.parent, prefix=".lmx-") as folder:
        fresh = Path(folder) / manager.path.name
        fresh.write_bytes(content)
        fresh.chmod(0o644)
        report(manager.check(fresh))
        if was_loaded:
            manager.unload()
            report("the service that was there has stopped")
        fresh.replace(manager.path)
    report(f"{manager.path} is written")


def _restore(manager: Manager, old: bytes | None, report: Report, *, was_loaded: bool) -> None:
    if old is None:
        manager.path.unlink(missing_ok=True)
    else:
        manager.path.write_bytes(old)
    try:
        manager.forget()
        if was_loaded:
            manager.load()
    except CommandFailed as failure:
        report(f"the old service could not be started again: {failure.message}")


def _make_folder(folder: Path, account: Account, report: Report) -> None:
    """Make a folder that is not there, for the user of the service."""
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(folder, account.uid, account.gid)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be made: {error.strerror}") from error
    report(f"{folder} is made")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
