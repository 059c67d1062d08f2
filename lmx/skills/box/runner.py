"""Running plans: one process tree per run, of which nothing is left when `Box.run` returns.

The daemon speaks with the first process over a socket: the plan goes out, a report comes back, and
when the daemon's side ends, the whole tree is killed. Output is counted while it is read. Nothing
here blocks the event loop: files are touched in threads.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio
from msgspec import Struct

import lmx
from lmx.skills.box.grants import PlanRefused, Prepared, Secrets, prepare
from lmx.skills.box.plan import BoxCapability, BoxEnd, BoxPlan, BoxResult
from lmx.skills.box.removal import remove_tree

_START = (
    "import sys; sys.path.append(sys.argv.pop());from lmx.skills.box.child.main import main; main()"
)
_PACKAGE_PARENT = str(Path(lmx.__file__).parent.parent)
# How long the watching process has to kill the tree after it was told to. It needs some
# milliseconds; ended before it is done, it could no longer say that nothing is left.
KILL_WAIT_S = 2.0
REAP_WAIT_S = 5.0
# Longest that a run's end waits for its directory; a very large one is removed in the background.
REMOVE_WAIT_S = 0.1
_READ_BYTES = 65_536
_REPORT_BYTES = 65_536
# The first process' environment; the skill's own is part of the plan.
_START_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

Overrun = Literal["timed_out", "too_much_output"]


class _Report(Struct):
    """See `lmx.skills.box.child.wire.ChildReport`."""

    ending: Literal["exited", "signalled", "failed", "cpu", "memory", "processes", "cancelled"]
    number: int = 0
    error: str = ""
    cpu_s: float = 0.0


class _Answer(Struct):
    """What an entrypoint's process wrote as its result."""

    value: Any = None
    error: str | None = None
    memory: bool = False


class Box:
    """Runs plans, contained by what the machine has.

    Args:
        capability: What contains them, as `detect_capability` found it.
        home: The daemon's home directory. Of what is in it, runs may be granted skills and models.
        secrets: More files and folders that no run may see, such as a configuration file elsewhere.
        environment: Where permitted variables are taken from: the daemon's environment.
        temp_parent: Where temporary directories are made; `None` for the system's place.
    """

    def __init__(
        self,
        capability: BoxCapability,
        *,
        home: Path | None = None,
        secrets: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        temp_parent: Path | None = None,
    ) -> None:
        hidden = [*secrets, *([home] if home else [])]
        shown = [home / "skills", home / "models"] if home else []
        self._secrets = Secrets(
            [os.path.realpath(path) for path in hidden], [os.path.realpath(path) for path in shown]
        )
        self._environment = dict(environment or {})
        self._temp_parent = temp_parent
        self.capability = capability

    async def run(self, plan: BoxPlan) -> BoxResult:
        """Run a plan to its end.

        Returns:
            How it went, whatever the run did. Every process of it has ended.

        Cancellation:
            Kills every process of the run, at once and shielded; it takes some milliseconds, and
            at most `KILL_WAIT_S` plus `REMOVE_WAIT_S` unless the kernel itself is stuck.
        """
        started_s = trio.current_time()
        check = partial(
            prepare,
            plan,
            self.capability,
            secrets=self._secrets,
            environment=self._environment,
            temp_parent=self._temp_parent,
        )
        try:
            prepared = await trio.to_thread.run_sync(check)
        except PlanRefused as error:
            return BoxResult(end="refused", error=str(error))
        try:
            result = await _run_prepared(prepared, plan)
        finally:
            remove = partial(remove_tree, prepared.temp)
            with trio.move_on_after(REMOVE_WAIT_S, shield=True):
                await trio.to_thread.run_sync(remove, abandon_on_cancel=True)
        wall_s = trio.current_time() - started_s
        return msgspec.structs.replace(result, wall_s=wall_s)


async def _run_prepared(prepared: Prepared, plan: BoxPlan) -> BoxResult:
    try:
        tree = await _start()
    except OSError as error:
        return BoxResult(end="refused", error=f"no process can be started: {error.strerror}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.feed, plan.stdin)
            output = _Output(plan.limits.output_bytes)
            for name, stream in tree.outputs.items():
                nursery.start_soon(output.read, name, stream)
            report = await _wait_report(tree, output, prepared.line, wall_s=plan.limits.wall_s)
            await tree.end()
            with trio.move_on_after(KILL_WAIT_S):
                await output.wait_whole()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await tree.end()
        tree.close()
    return _judge(report, output, plan)


async def _wait_report(
    tree: "_Tree", output: "_Output", line: bytes, *, wall_s: float
) -> _Report | None:
    with trio.move_on_after(wall_s) as scope:
        output.on_overrun = scope
        report = await tree.talk(line)
    if scope.cancelled_caught:
        output.overrun = output.overrun or "timed_out"
        return await tree.dismiss()
    return report


class _Output:
    """What a run writes, read as it comes, to a limit.

    Attributes:
        overrun: Why the run is to be ended.
        on_overrun: Cancelled when too much came.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._texts: dict[str, bytearray] = {}
        self._open_count = 0
        self._whole = trio.Event()
        self.overrun: Overrun | None = None
        self.on_overrun: trio.CancelScope | None = None

    def text(self, name: str) -> bytes:
        """What came on one stream, up to the limit."""
        return bytes(self._texts.get(name, b""))

    async def wait_whole(self) -> None:
        """Wait until all streams have ended."""
        await self._whole.wait()

    async def read(self, name: str, stream: trio.abc.ReceiveStream) -> None:
        """Read one stream to its end; past the limit it is read and dropped."""
        text = self._texts.setdefault(name, bytearray())
        self._open_count += 1
        async with stream:
            while data := await stream.receive_some(_READ_BYTES):
                room_bytes = self._limit_bytes - len(text)
                text += data[:room_bytes]
                if len(data) > room_bytes:
                    self._stop()
        self._open_count -= 1
        if self._open_count == 0:
            self._whole.set()

    def _stop(self) -> None:
        self.overrun = self.overrun or "too_much_output"
        if self.on_overrun is not None:
            self.on_overrun.cancel()


class _Tree:
    """The processes of a run, through the first of them.

    Attributes:
        outputs: Streams by name: ``stdout``, ``stderr`` and ``result``.
    """

    def __init__(self, process: trio.Process, control: trio.SocketStream, result: int) -> None:
        assert process.stdout is not None  # noqa: S101 - it was started with pipes
        assert process.stderr is not None  # noqa: S101
        self._process = process
        self._control = control
        self._received = bytearray()
        self.outputs: dict[str, trio.abc.ReceiveStream] = {
            "stdout": process.stdout,
            "stderr": process.stderr,
            "result": trio.lowlevel.FdStream(result),
        }

    async def feed(self, data: bytes) -> None:
        """Write standard input and close it; a run that does not read it is let be."""
        assert self._process.stdin is not None  # noqa: S101
        async with self._process.stdin:
            with suppress(trio.BrokenResourceError):
                await self._process.stdin.send_all(data)

    async def talk(self, line: bytes) -> _Report | None:
        """Send the plan and wait for the report; `None` if the first process ended without one."""
        with suppress(trio.BrokenResourceError):
            await self._control.send_all(line)
        return await self._receive()

    async def dismiss(self) -> _Report | None:
        """Have the tree killed and wait, shielded and for a moment, for its report."""
        with trio.move_on_after(KILL_WAIT_S, shield=True):
            with suppress(OSError, trio.BrokenResourceError):
                await self._control.send_eof()
            return await self._receive()
        return None

    async def end(self) -> None:
        """End every process and reap the first."""
        with suppress(OSError):
            self._control.socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(KILL_WAIT_S):
            await self._process.wait()
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with trio.move_on_after(REAP_WAIT_S):
            await self._process.wait()

    def close(self) -> None:
        """Close what the streams' readers have not closed."""
        self._control.socket.close()

    async def _receive(self) -> _Report | None:
        with suppress(trio.BrokenResourceError):
            while not self._received.endswith(b"\n") and len(self._received) < _REPORT_BYTES:
                data = await self._control.receive_some(_READ_BYTES)
                if not data:
                    break
                self._received += data
        first, _, _ = bytes(self._received).partition(b"\n")
        try:
            return msgspec.json.decode(first, type=_Report)
        except msgspec.DecodeError:
            return None


async def _start() -> _Tree:
    with ExitStack() as theirs, ExitStack() as ours:
        control, control_end = socket.socketpair()
        ours.callback(control.close)
        theirs.callback(control_end.close)
        result, result_end = os.pipe()
        ours.callback(os.close, result)
        theirs.callback(os.close, result_end)
        # Shielded: cancelled in the middle, the child would exist and nobody know its id.
        with trio.CancelScope(shield=True):
            process = await _spawn(control_end.fileno(), result_end)
        ours.pop_all()  # from here on the tree's
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(control))
        return _Tree(process, stream, result)


async def _spawn(control: int, result_end: int) -> trio.Process:
    spawn = partial(
        trio.lowlevel.open_process,
        [sys.executable, "-I", "-S", "-c", _START, str(control), str(result_end), _PACKAGE_PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(control, result_end),
        start_new_session=True,
        cwd="/",
        env=_START_ENVIRONMENT,
    )
    return await spawn()


_ENDS: Mapping[str, tuple[BoxEnd, str]] = {
    "cpu": ("timed_out", "it used more CPU time than it may"),
    "memory": ("out_of_memory", "it used more memory than it may"),
    "processes": ("too_many_processes", "it started more processes than it may"),
    "timed_out": ("timed_out", "it took longer than it may"),
    "too_much_output": ("too_much_output", "it wrote more than it may"),
}


def _judge(report: _Report | None, output: _Output, plan: BoxPlan) -> BoxResult:
    end: BoxEnd = "done"
    error: str | None = None
    status: int | None = None
    value: Any = None
    ending = output.overrun or (report.ending if report else None)
    if ending is not None and ending in _ENDS:
        end, error = _ENDS[ending]
    elif report is None or ending == "cancelled":
        end, error = "crashed", "its first process was ended from outside"
    elif ending == "failed":
        end, error = "refused", report.error
    elif ending == "signalled":
        end, status = "crashed", -report.number
        error = f"ended by {_name_signal(report.number)}"
    elif plan.entrypoint is None:
        status = report.number
        error = f"exited with status {status}" if status else None
    else:
        end, error, value = _read_answer(output.text("result"), report.number)
    return BoxResult(
        end=end,
        error=error,
        status=status,
        value=value,
        stdout=output.text("stdout"),
        stderr=output.text("stderr"),
        cpu_s=report.cpu_s if report else 0.0,
    )


def _read_answer(data: bytes, status: int) -> tuple[BoxEnd, str | None, Any]:
    if not data:
        return "raised", f"it exited with status {status} before it returned", None
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, RecursionError):
        return "raised", "what it returned is no JSON", None
    if answer.error is None:
        return "done", None, answer.value
    return ("out_of_memory" if answer.memory else "raised"), answer.error, None


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
