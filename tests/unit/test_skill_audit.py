"""The audit file: every line arrives, files stay small, and a disk that fails ends nothing."""

import json
from pathlib import Path

import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.skills.audit import AuditLine, AuditLog


def line(skill: str) -> AuditLine:
    """Any call of a skill."""
    return AuditLine(
        skill=skill,
        request_id="r",
        arguments_sha256="0" * 64,
        arguments_bytes=2,
        duration_ms=1.0,
        outcome="ok",
    )


def skills_in(path: Path) -> list[str]:
    """Whose calls are in a file."""
    return [json.loads(text)["skill"] for text in path.read_text().splitlines()]


async def write(log: AuditLog, *names: str) -> None:
    """Record calls while the log runs, and stop it at once."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            await wait_all_tasks_blocked()
            for name in names:
                log.record(line(name))
            nursery.cancel_scope.cancel()


async def test_what_is_recorded_last_is_written_too(tmp_path: Path) -> None:
    """Also when the daemon stops right after it."""
    path = tmp_path / "logs" / "skills.jsonl"
    await write(AuditLog(path), "a", "b")
    await write(AuditLog(path), "c")
    assert ["a", "b", "c"] == skills_in(path)


async def test_a_full_file_makes_room(tmp_path: Path) -> None:
    """It becomes the one file that is kept beside the new one."""
    path = tmp_path / "skills.jsonl"
    for name in ("a", "b", "c"):
        await write(AuditLog(path, max_bytes=100), name)
    assert (["c"], False) == (skills_in(path.with_name("skills.jsonl.1")), path.exists())


async def test_a_disk_that_fails_ends_nothing(tmp_path: Path) -> None:
    """It is said once; the lines are in the daemon's log all the same."""
    (tmp_path / "file").touch()
    log = AuditLog(tmp_path / "file" / "skills.jsonl")
    with structlog.testing.capture_logs() as told:
        await write(log, "a")
        await write(log, "b")
    events = [one["event"] for one in told]
    assert (2, 1) == (events.count("skill run"), events.count("audit file cannot be written"))


async def test_the_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Whoever may write the folder cannot lead the log elsewhere."""
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "skills.jsonl").symlink_to(victim)
    await write(AuditLog(tmp_path / "skills.jsonl"), "a")
    assert b"" == victim.read_bytes()
