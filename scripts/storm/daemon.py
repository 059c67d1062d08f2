"""A daemon of its own home that a storm is let loose on, and its log as it is written.

The daemon is a child process like any other; what it does is read from its log and its admin API,
never from inside.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import trio

ROOT = Path(__file__).parent.parent.parent
LMX = ("-m", "lmx")
READ_PERIOD_S = 0.01
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
# There is one for every request, and nobody here reads it.
COMMON = frozenset({"request ended"})
LOADED = re.compile(r"Model loaded: (.+) \([\d.]+ GB, ([\d.]+) s\)")


class StormFailed(Exception):
    """Something that was waited for did not happen."""


@dataclass(frozen=True)
class Line:
    """One line of the daemon's log; `at_s` is in seconds of the epoch."""

    at_s: float
    event: str
    fields: Mapping[str, Any]


class Log:
    """The daemon's log, read while it grows, without what there is of every request.

    Args:
        path: The file its standard error goes to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._offset = 0
        self._grown = trio.Event()

    async def follow(self) -> None:
        """Read what is written from now on. Never returns."""
        while True:
            self.read()
            await trio.sleep(READ_PERIOD_S)

    def read(self) -> None:
        """Read the whole lines that are there now."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            *whole, _ = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in whole)
        parsed = (parse_line(line) for line in whole if line)
        self.lines += [line for line in parsed if line.event not in COMMON]
        if whole:
            self._grown.set()
            self._grown = trio.Event()

    async def wait(
        self, matches: Callable[[Line], bool], *, after_s: float, limit_s: float, what: str
    ) -> Line:
        """The first line since `after_s` that matches, past or to come.

        Raises:
            StormFailed: None came within `limit_s`.
        """
        with trio.move_on_after(limit_s):
            while True:
                found = next((n for n in self.since(after_s) if matches(n)), None)
                if found is not None:
                    return found
                await self._grown.wait()
        raise StormFailed(f"{what} did not happen within {limit_s:g} s")

    def since(self, after_s: float) -> list[Line]:
        """Lines from `after_s` on, in order."""
        start = len(self.lines)
        while start and self.lines[start - 1].at_s >= after_s:
            start -= 1
        return self.lines[start:]

    def last(self, event: str) -> Line | None:
        """The last line of an event."""
        return next((line for line in reversed(self.lines) if line.event == event), None)

    def tail(self) -> str:
        """The end of the file."""
        return self.path.read_text("utf-8", "replace")[-4000:]


def parse_line(line: bytes) -> Line:
    """A line as it was written; one that is no JSON is an event by itself."""
    try:
        fields = json.loads(line)
        at_s = datetime.fromisoformat(fields["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return Line(time.time(), line.decode("utf-8", "replace"), {})
    return Line(at_s, str(fields["event"]), fields)


def loaded_model(line: Line) -> tuple[str, float] | None:
    """Which model a line says has come up, and after how many seconds."""
    found = LOADED.fullmatch(line.event)
    return None if found is None else (found[1], float(found[2]))


class Daemon:
    """A running daemon.

    Attributes:
        home: Its ``LMX_HOME``.
        url: Where it answers.
        process: The child.
        log: Its log.
    """

    def __init__(self, home: Path, process: "subprocess.Popen[bytes]", log: Log) -> None:
        self.home = home
        self.url = ""
        self.process = process
        self.log = log

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def workers(self) -> list[psutil.Process]:
        """Its living children."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def survivors(self) -> list[int]:
        """Processes that have its home in their environment, itself not counted."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.environ().get("LMX_HOME") == str(self.home)
                if is_ours and process.pid != self.process.pid:
                    found.append(process.pid)
        return found

    async def stop(self) -> int | None:
        """Ask it to end and give its exit status; `None` if it does not end."""
        self.process.terminate()
        with trio.move_on_after(STOP_LIMIT_S):
            while self.is_alive:  # noqa: ASYNC110  # another process, no event of ours
                await trio.sleep(READ_PERIOD_S)
        if self.is_alive:
            return None
        self.log.read()
        return self.process.returncode

    async def wait_listening(self) -> None:
        """Wait for its address.

        Raises:
            StormFailed: It ended, or does not listen in time.
        """
        line = await self.log.wait(
            lambda line: line.event == "listening" or not self.is_alive,
            after_s=0.0,
            limit_s=START_LIMIT_S,
            what=f"listening ({self.log.tail()})",
        )
        if line.event != "listening":
            raise StormFailed(f"the daemon did not start\n{self.log.tail()}")
        self.url = str(line.fields["urls"][0])


@asynccontextmanager
async def open_daemon(
    home: Path,
    models: Sequence[str],
    *,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = LMX,
) -> AsyncIterator[Daemon]:
    """A daemon that listens; it is killed if it still runs at the end.

    Args:
        home: Its ``LMX_HOME``; created if missing.
        models: What to load at start.
        settings: Environment variables on top of ours.
        command: Python's arguments before ``serve``.

    Raises:
        StormFailed: It does not start.
    """
    await trio.Path(home).mkdir(parents=True, exist_ok=True)
    path = home / "daemon.log"
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("LMX_")}
    arguments = [argument for model in models for argument in ("--model", model)]
    with path.open("wb") as log_file:
        process = subprocess.Popen(  # noqa: ASYNC220, S603  # it must outlive a cancelled scope
            [sys.executable, *command, "serve", "--host", "127.0.0.1", "--port", "0", *arguments],
            cwd=ROOT,
            env={**inherited, "LMX_HOME": str(home), **(settings or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
        )
    daemon = Daemon(home, process, Log(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.log.follow)
        try:
            await daemon.wait_listening()
            yield daemon
        finally:
            process.kill()
            process.wait()
            nursery.cancel_scope.cancel()
