"""One job process from its order to its result."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import trio
from msgspec import Struct

from lmx.daemon.children import obituary, open_child, read_lines
from lmx.errors import JobCrashed, from_code
from lmx.protocol.jobs import Done, Failed, JobProgress, Planned, Report

_REPORT: "msgspec.json.Decoder[Report]" = msgspec.json.Decoder(Report)


async def run_job(
    module: str,
    order: Struct,
    on_progress: Callable[[JobProgress], None],
    *,
    environment: Mapping[str, str] | None = None,
) -> Planned | Done:
    """Have a child do what is ordered.

    Args:
        module: What the child runs.
        order: One of `lmx.protocol.jobs`.
        on_progress: Called in this task for every report, at most four a second.
        environment: Of the child, on top of our own.

    Raises:
        JobCrashed: The child died before it had reported an end.
        LmxError: Why it failed, as it said.

    Cancellation:
        The child is killed and reaped. What it has on disk stays.
    """
    last: Report | None = None
    with tempfile.TemporaryFile() as stderr:
        async with open_child(module, [], stderr, environment=environment) as process:
            if process.stdin is not None:
                with suppress(trio.BrokenResourceError):  # it has died; how is said below
                    await process.stdin.send_all(msgspec.json.encode(order) + b"\n")
            async for line in read_lines(process):
                last = _parse(line)
                if isinstance(last, JobProgress):
                    on_progress(last)
            status = await process.wait()
        if isinstance(last, Failed):
            raise from_code(last.code, last.message, param=last.param)
        if isinstance(last, Planned | Done):
            return last
        raise JobCrashed(f"the process {obituary(status, stderr)}")


def _parse(line: bytes) -> Report:
    try:
        return _REPORT.decode(line)
    except msgspec.DecodeError as error:
        text = line[:200].decode("utf-8", "replace")
        raise JobCrashed(f"the process wrote a line that is no report: {text}") from error
