"""The lock of a home: who may take it, whom it names, and what counts as left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lmx.daemon.instance import Holder, hold_instance, lock_path, process_start, read_lock
from lmx.errors import AlreadyRunning, ConfigError

ELSEWHERE = Holder(pid=1, host="elsewhere.example")


def leave_record(home: Path, holder: Holder) -> None:
    """What a daemon leaves that dies."""
    lock_path(home).write_bytes(msgspec.json.encode(holder))


def ended_pid() -> int:
    """Of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_the_holder_says_who_it_is(tmp_path: Path) -> None:
    """Its process, its machine, its address, and later that it stops; nothing after the end."""
    home = tmp_path / "new"
    with hold_instance(home, wait_s=0) as instance:
        seen = read_lock(home)
        assert (True, False) == (seen.is_held, seen.is_stale)
        assert seen.holder is not None
        assert (os.getpid(), socket.gethostname()) == (seen.holder.pid, seen.holder.host)
        assert ("", False) == (seen.holder.url, seen.holder.is_stopping)
        instance.announce("http://127.0.0.1:1")
        instance.announce_stop()
        told = read_lock(home).holder
        assert told is not None
        assert ("http://127.0.0.1:1", True) == (told.url, told.is_stopping)
    left = read_lock(home)
    assert (None, False, False) == (left.holder, left.is_held, left.is_stale)


def test_a_second_one_is_told_of_the_first(tmp_path: Path) -> None:
    """At once, with pid and address."""
    with hold_instance(tmp_path, wait_s=60) as instance:
        instance.announce("http://127.0.0.1:4711")
        with (
            pytest.raises(AlreadyRunning) as caught,
            hold_instance(tmp_path, wait_s=60),
        ):
            pass
    for said in (str(os.getpid()), "http://127.0.0.1:4711", "LMX_HOME"):
        assert said in caught.value.message


def test_one_that_stops_is_waited_for(tmp_path: Path) -> None:
    """As long as its stop may take, and no longer."""
    with hold_instance(tmp_path, wait_s=0) as instance:
        instance.announce_stop()
        with pytest.raises(AlreadyRunning), hold_instance(tmp_path, wait_s=0.15):
            pass


@pytest.mark.parametrize("kind", ["dead", "reused", "other host", "garbage", "longer"])
def test_what_a_dead_daemon_left_is_taken_over(tmp_path: Path, kind: str) -> None:
    """Its pid may be gone or somebody else's, and its home may come from another machine."""
    here = Holder(pid=ended_pid(), host=socket.gethostname())
    match kind:
        case "dead":
            leave_record(tmp_path, here)
        case "reused":
            leave_record(tmp_path, msgspec.structs.replace(here, pid=os.getpid(), started="once"))
        case "other host":
            leave_record(tmp_path, ELSEWHERE)
        case "longer":
            leave_record(tmp_path, msgspec.structs.replace(here, url="x" * 9000))
        case _:
            lock_path(tmp_path).write_bytes(b"\xff garbage")
    assert kind == "garbage" or read_lock(tmp_path).is_stale
    with hold_instance(tmp_path, wait_s=0):
        holder = read_lock(tmp_path).holder
        assert holder is not None
        assert os.getpid() == holder.pid
    with hold_instance(tmp_path, wait_s=0):
        pass


def test_a_reused_pid_is_told_from_the_daemon(tmp_path: Path) -> None:
    """By when its process started; one of another machine counts as alive."""
    host = socket.gethostname()
    mine = process_start(os.getpid())
    assert mine
    assert mine == process_start(os.getpid())
    assert Holder(pid=os.getpid(), started=mine, host=host).is_alive
    assert not Holder(pid=os.getpid(), started="once", host=host).is_alive
    assert not Holder(pid=ended_pid(), host=host).is_alive
    assert ELSEWHERE.is_alive
    assert "elsewhere.example" in str(ELSEWHERE)


def test_a_removed_lock_file_lets_nobody_lock_what_others_cannot_find(tmp_path: Path) -> None:
    """Who takes the lock holds the file that stands there."""
    with hold_instance(tmp_path, wait_s=0):
        lock_path(tmp_path).unlink()
        with hold_instance(tmp_path, wait_s=0):
            assert read_lock(tmp_path).is_held


def test_no_program_that_is_started_holds_the_lock(tmp_path: Path) -> None:
    """A child that outlives the daemon keeps nobody out."""
    with hold_instance(tmp_path, wait_s=0):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not read_lock(tmp_path).is_held
    finally:
        child.communicate(b"\n", timeout=30)


def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """It is a file, and the message says what to do."""
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(ConfigError) as caught, hold_instance(home, wait_s=0):
        pass
    assert str(home) in caught.value.message
    assert "LMX_HOME" in caught.value.message
