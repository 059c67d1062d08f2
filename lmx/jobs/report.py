"""What every job process does: read its order, watch its parent, report in lines, exit.

Standard input carries the order and ends when the parent is gone or has lost interest; this process
then ends at once, whatever it does. A job keeps its files so that this is safe at any moment.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import msgspec

from lmx.errors import JobFailed, LmxError, StorageFull
from lmx.protocol.jobs import Done, Failed, JobProgress, Planned, Report

Order = TypeVar("Order")

REPORT_PERIOD_S = 0.25
PARENT_GONE_STATUS = 3
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reporter:
    """Writes reports; of progress the latest, four times a second, from a thread of its own.

    So the last word before a silence is heard, too.

    Args:
        sink: Where the lines go.
    """

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._writing = threading.Lock()
        self._latest: JobProgress | None = None

    def start(self) -> None:
        """Begin to tell of progress."""
        threading.Thread(target=self._tell_for_ever, daemon=True).start()

    def send(self, report: Report) -> None:
        """One report, at once, after what is known of the progress."""
        with self._writing:
            self._write_latest()
            self._write(report)

    def progress(self, progress: JobProgress) -> None:
        """Note how far it is; any number of times a second."""
        with self._writing:
            self._latest = progress

    def _tell_for_ever(self) -> None:
        while True:
            time.sleep(REPORT_PERIOD_S)
            with self._writing:
                self._write_latest()

    def _write_latest(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            self._write(latest)

    def _write(self, report: Report) -> None:
        self._sink.write(msgspec.json.encode(report) + b"\n")
        self._sink.flush()


def run_job(orders: type[Order] | object, work: Callable[[Order, Reporter], Planned | Done]) -> int:
    """Do the one job that standard input asks for.

    Args:
        orders: The type of order, or a union of types.
        work: Does it; may raise `LmxError` and `OSError`.

    Returns:
        The exit status.
    """
    # What libraries print must not come between the reports.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    reporter = Reporter(sink)
    reporter.start()
    order: Order = msgspec.json.decode(_read_line(sys.stdin.fileno()), type=orders)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        result = work(order, reporter)
    except LmxError as error:
        reporter.send(Failed(error.code, error.message, error.param))
        return 1
    except OSError as error:
        known = explain(error)
        reporter.send(Failed(known.code, known.message))
        return 1
    reporter.send(result)
    return 0


def explain(error: OSError) -> LmxError:
    """What the system refused, as an error with a code."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in NO_SPACE:
        return StorageFull(f"{where}the disk is full")
    return JobFailed(f"{where}{error.strerror or error}")


def _read_line(descriptor: int) -> bytes:
    """Without Python's buffer, whose lock a thread that waits would hold at the exit."""
    line = b""
    while not line.endswith(b"\n") and (block := os.read(descriptor, 65_536)):
        line += block
    return line


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(PARENT_GONE_STATUS)
