"""One daemon for all tests of a module, checked for quiet faults when the module is done."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_process import Daemon, spawn_daemon


@contextmanager
def shared_daemon(
    home: Path, *models: str, settings: Mapping[str, str] | None = None, is_ready: bool = True
) -> Iterator[Daemon]:
    """A daemon that must outlive the block without one unexpected failure in its log.

    Args:
        home: Its ``LMX_HOME``.
        models: What it loads.
        settings: Environment on top of ours.
        is_ready: Whether to wait until a model answers.
    """
    with spawn_daemon(home, *models, settings=settings) as daemon:
        if is_ready:
            daemon.wait_ready_blocking()
        yield daemon
        assert daemon.is_alive
        assert [] == daemon.events("request failed")
        unparsed = [line["text"] for line in daemon.log_lines() if "text" in line]
        assert not unparsed, "\n".join(unparsed)
