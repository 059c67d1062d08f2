"""What the service manager is told: on its socket, in its words, and only where it listens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from lmx.daemon.supervision import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.settimeout(5)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    """The lines of the next message."""
    return manager.recv(4096).decode().splitlines()


def test_start_and_stop_are_told(manager: socket.socket) -> None:
    """With a word for people who ask for the unit's state."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.tell_ready("http://x:1")
    assert ["READY=1", "STATUS=answers at http://x:1", f"MAINPID={os.getpid()}"] == heard(manager)
    notifier.tell_stopping()
    assert "STOPPING=1" == heard(manager)[0]


async def test_signs_of_life_come_from_the_loop(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    """Three within the limit, as long as tasks run."""
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000"}
    with trio.move_on_after(59):
        await Notifier(environment).run()
    manager.settimeout(0)
    signs = [heard(manager) for _ in range(3)]
    assert [["WATCHDOG=1"]] * 3 == signs
    with pytest.raises(BlockingIOError):
        heard(manager)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
)
async def test_who_is_not_watched_gives_no_signs(environment: dict[str, str]) -> None:
    """Without a watchdog, or with one for another process, nothing runs."""
    with trio.fail_after(5):
        await Notifier(environment).run()


def test_a_manager_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    """Neither a missing socket nor a name that cannot be one."""
    for address in (str(tmp_path / "none"), "@nobody", "x" * 500):
        Notifier({"NOTIFY_SOCKET": address}).tell_ready("http://x")
