"""What the installer and the commands need of a service manager."""

from pathlib import Path
from typing import Protocol

from msgspec import Struct

from lmx.cli.service.job import Job


class ServiceState(Struct, frozen=True, kw_only=True):
    """A service as its manager sees it.

    Attributes:
        is_installed: Its file is there.
        is_loaded: The manager knows it.
        is_running: It has a process.
        pid: That process.
        last_exit: The last exit status, if there is one.
        detail: The manager's word for the state.
    """

    is_installed: bool
    is_loaded: bool = False
    is_running: bool = False
    pid: int | None = None
    last_exit: int | None = None
    detail: str = ""


class Manager(Protocol):
    """launchd or systemd. Every method that drives it may raise `CommandFailed`."""

    @property
    def name(self) -> str:
        """As people know it."""
        ...

    @property
    def path(self) -> Path:
        """Where the service's file belongs."""
        ...

    def require(self) -> None:
        """Refuse machines that do not have it."""
        ...

    def render(self, job: Job) -> bytes:
        """The service's file."""
        ...

    def check(self, file: Path) -> str:
        """Let the system's own checker read a file of that name; returns what was done."""
        ...

    def load(self) -> None:
        """Start the service now and at every boot or login."""
        ...

    def unload(self) -> None:
        """Stop it and let the manager forget it; waits for its end."""
        ...

    def forget(self) -> None:
        """The file is gone."""
        ...

    def start(self) -> None:
        """Start it, if it does not run."""
        ...

    def stop(self) -> None:
        """Let it stop, and wait for that; it stays loaded."""
        ...

    def state(self) -> ServiceState:
        """How it is."""
        ...
