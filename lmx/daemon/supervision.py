"""What the daemon tells the program that started it: systemd's notification protocol.

One datagram per message to the socket that ``NOTIFY_SOCKET`` names; without one, nothing is told.
The watchdog's sign of life comes from a task of the event loop, so it stops when the loop does.
Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import trio

# How often the watchdog hears of us within the time after which it ends us.
SIGNS_PER_LIMIT = 3


class Notifier:
    """Tells the service manager how the daemon is. No method fails, or waits for it.

    Args:
        environment: As the service manager has set it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._period_s = _watchdog_s(environment) / SIGNS_PER_LIMIT

    def tell_ready(self, url: str) -> None:
        """The daemon answers."""
        self._tell("READY=1", f"STATUS=answers at {url}", f"MAINPID={os.getpid()}")

    def tell_stopping(self) -> None:
        """The daemon drains."""
        self._tell("STOPPING=1", "STATUS=lets running requests finish")

    async def run(self) -> None:
        """Give signs of life for ever; returns at once if nobody watches."""
        while self._period_s:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._period_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            suppress(OSError),  # a manager that does not listen is no reason to stop
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(0)
            sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """After how much silence the watchdog ends this process; 0 if it is not watched."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
