"""Stand-ins for what the daemon talks to: a worker played by the test, and a loader of one model.

The link, the socket pair and the frames are the real ones; only the process is missing.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from lmx.catalog.specs import ModelSpec
from lmx.config import Settings
from lmx.daemon.admission import Admission
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.link import WorkerLink
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.model_state import ModelEvent
from lmx.daemon.telemetry import DaemonEvent, Telemetry
from lmx.daemon.worker import ExitKind, WorkerExit
from lmx.errors import FrameError, LmxError, WorkerBroken
from lmx.protocol.codec import command_decoder, encode_events
from lmx.protocol.messages import (
    ChatPrompt,
    Command,
    Delta,
    Event,
    Finished,
    Generate,
    Loaded,
)
from lmx.protocol.values import FinishReason, Memory, ModelInfo, Purpose, Sampling, Timings, Usage

USAGE = Usage(3, 4)


def loaded_event(max_sequences: int = 4, *, weight_bytes: int = 0) -> Loaded:
    """What a worker says when its model is up."""
    info = ModelInfo(
        context_tokens=100, max_sequences=max_sequences, weight_bytes=weight_bytes, engine="fake"
    )
    return Loaded(info, Memory(active_bytes=weight_bytes), [])


def generate(count: int = 1, *, text: str = "Hi") -> Generate:
    """Any request for so many choices."""
    prompt = ChatPrompt([{"role": "user", "content": text}])
    return Generate(0, prompt, [Sampling(10)] * count, [])


def finished(sequence: int, reason: FinishReason = "stop") -> Finished:
    """The end of a request that used `USAGE`."""
    return Finished(sequence, reason, USAGE, Timings())


def delta(sequence: int, text: str) -> Delta:
    """One token's text."""
    return Delta(sequence, text, 1)


class Recorder(Telemetry):
    """Telemetry that keeps everything it was told.

    Attributes:
        told: All events.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[DaemonEvent] = []

    def publish(self, event_type: str, **fields: Any) -> None:
        """Keep it, and tell subscribers."""
        self.told.append(DaemonEvent(event_type, fields))
        super().publish(event_type, **fields)

    def all_of(self, event_type: str) -> list[dict[str, Any]]:
        """All events of a type."""
        return [event.fields for event in self.told if event.type == event_type]

    def of(self, event_type: str, field: str) -> list[Any]:
        """One field of all events of a type."""
        return [event.fields[field] for event in self.told if event.type == event_type]


class ScriptedWorker:
    """The worker's end of a real link; the test reads commands and writes events by hand.

    Attributes:
        link: The daemon's end.
        pid: Of no process.
        ended: How it ended, once it did.
    """

    def __init__(self, pid: int = 0) -> None:
        ours, self._socket = socket.socketpair()
        self._socket.settimeout(0)
        self._decoder = command_decoder()
        self._has_ended = trio.Event()
        self.link = WorkerLink(ours)
        self.pid = pid
        self.ended: WorkerExit | None = None

    async def wait_ended(self) -> WorkerExit:
        """Wait for its end."""
        await self._has_ended.wait()
        assert self.ended is not None
        return self.ended

    def condemn(self, kind: ExitKind, reason: str) -> None:
        """End it, as a kill would."""
        self.finish(reason, kind)

    def finish(self, reason: str, kind: ExitKind = "exit") -> None:
        """End with a reason; everybody who waits hears of it."""
        if self.ended is None:
            self.ended = WorkerExit(pid=self.pid, kind=kind, status=1, reason=reason, output="")
            self.link.end(self.ended.error())
            self._has_ended.set()

    async def run(self) -> None:
        """Pump the link, as `Worker.run` does, and fail what is left when it ends."""
        why = "the scripted worker ended"
        try:
            await self.link.run()
        except* FrameError as group:
            why = str(group.exceptions[0])
        self.link.end(WorkerBroken(why))

    def commands(self) -> list[Command]:
        """Every command that arrived since the last call."""
        commands: list[Command] = []
        try:
            while data := self._socket.recv(65536):
                commands += self._decoder.feed(data)
        except BlockingIOError:
            pass
        return commands

    async def listen(self) -> list[Command]:
        """Wait for commands; none once the pipe has ended."""
        await trio.lowlevel.wait_readable(self._socket)
        return self.commands()

    def send(self, *events: Event) -> None:
        """Send events as one frame, as one engine step would."""
        self.send_bytes(encode_events(events))

    def send_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._socket.sendall(data)

    def die(self) -> None:
        """End as a crashed process does: the pipe closes."""
        self._socket.close()


def ready_model(worker: ScriptedWorker, *, slots: int = 4, max_waiting: int = 4) -> Model:
    """A model that is ready on this worker; only while Trio runs."""
    model = Model(ModelSpec("m", "fake", ""))
    model.apply(ModelEvent.LOAD)
    admission = Admission(slot_count=slots, max_waiting=max_waiting)
    model.become_ready(ReadyModel(worker, loaded_event(slots), admission))
    return model


class OneModel:
    """A loader that knows one model and, if told so, lets requests wait for it or refuses them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.error: LmxError | None = None
        self.may_route = trio.Event()
        self.may_route.set()

    async def wait_routable(
        self, name: str, *, wait_s: float, purpose: Purpose = "generation"
    ) -> Model:
        await self.may_route.wait()
        if self.error is not None:
            raise self.error
        return self.model


class Bench:
    """A dispatcher over one scripted worker.

    Attributes:
        loader: Finds the model; may be told to let requests wait.
    """

    def __init__(self, *, slots: int = 4, max_waiting: int = 4) -> None:
        self.worker = ScriptedWorker()
        self.model: Model = ready_model(self.worker, slots=slots, max_waiting=max_waiting)
        self.telemetry = Recorder()
        self.loader = OneModel(self.model)
        self.dispatch = Dispatch(self.loader, self.telemetry, Settings(home=Path("/nowhere")))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Completed, failed, cancelled, in flight."""
        now = self.telemetry.statistics()
        return now.completed, now.failed, now.cancelled, now.in_flight

    def check(self, *, open_count: int) -> None:
        """Telemetry, dispatcher and admission all count the same requests."""
        ready = self.model.ready
        assert ready is not None
        expected = (open_count, open_count, open_count)
        in_flight = self.telemetry.statistics().in_flight
        assert expected == (in_flight, self.dispatch.in_flight, ready.admission.in_flight)

    async def ask(self, told: list[str] | None = None) -> None:
        """One request read to its end, as a route does."""
        async with self.dispatch.open(generate(), model_name="m") as reply:
            (choice,) = reply.choices
            while not choice.is_over:
                await choice.wait_change()
            if told is not None:
                told.append(choice.take_text())


@asynccontextmanager
async def open_bench(**limits: int) -> AsyncIterator[tuple[Bench, trio.Nursery]]:
    """A bench whose link is pumped, and a nursery for requests."""
    bench = Bench(**limits)
    async with trio.open_nursery() as pump:
        pump.start_soon(bench.worker.run)
        async with trio.open_nursery() as requests:
            yield bench, requests
        pump.cancel_scope.cancel()
