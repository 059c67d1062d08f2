"""The daemon's end of a worker pipe: frames in and out, events to the requests they belong to.

Theory of operation. One reader task decodes frames and hands each event to its `ReplyStream`, in
order, without ever waiting for a client. Commands are sent from any task without blocking: what the
kernel does not take goes to an outbox that a writer task empties. The first bad frame or event out
of order condemns the worker: `run` raises `FrameError` and the owner kills the process. The link
knows nothing of processes, models on disk or HTTP.
"""

import os
import socket
from typing import TYPE_CHECKING

import msgspec
import trio

from lmx.daemon.reply import ReplyStream
from lmx.errors import FrameError, LmxError, WorkerClosed, from_code
from lmx.protocol.codec import encode_command, event_decoder
from lmx.protocol.messages import (
    Ask,
    Cancel,
    Command,
    Event,
    Finished,
    Inspect,
    Inspected,
    LeaseEvent,
    Loaded,
    LoadFailed,
    Prompt,
    Rejected,
    Vitals,
    choice_count,
)
from lmx.protocol.values import Memory

if TYPE_CHECKING:
    from collections.abc import Callable


RECEIVE_BYTES = 256 * 1024


class _Inspection:
    """A question about a prompt on its way."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.outcome: Inspected | LmxError | None = None


class WorkerLink:
    """Speaks the protocol over one connected stream socket, which it owns.

    Attributes:
        vitals: How the worker last said that it goes, once it did.
        on_lease: Takes what the worker says of the device lease. May raise `FrameError`.
        sign_count: Frames so far that show work being done, delivered or not.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._replies: dict[int, ReplyStream] = {}
        self._inspections: dict[int, _Inspection] = {}
        self._next_sequence = 1
        self._outbox = bytearray()
        self._outbox_filled = trio.Event()
        self._loaded: Loaded | LmxError | None = None
        self._load_answered = trio.Event()
        self._closed_by: LmxError | None = None
        self.vitals: Vitals | None = None
        self.sign_count = 0
        self.on_lease: Callable[[LeaseEvent], None] = _refuse_lease

    @property
    def memory(self) -> Memory | None:
        """What the worker last said of its device memory, once it did."""
        return None if self.vitals is None else self.vitals.memory

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Of the requests that the worker is answering, as their clients know them."""
        tallies = (reply.tally for reply in self._replies.values())
        ids = (tally.request_id for tally in tallies if tally is not None)
        return tuple(dict.fromkeys(filter(None, ids)))

    @property
    def has_work(self) -> bool:
        """Whether the worker owes somebody an event."""
        return bool(self._replies or self._inspections)

    async def run(self) -> None:
        """Pump both directions. Returns when the worker closes its end.

        Raises:
            FrameError: The worker sent something that is no frame or out of order.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_outbox)
            await self._read_frames()
            nursery.cancel_scope.cancel()

    async def load(self, command: Command) -> Loaded:
        """Send the load command and wait for its outcome.

        Raises:
            LoadError: The worker says why it cannot bring the model up.
            WorkerError: The worker ended before it answered.
        """
        self.send(command)
        await self._load_answered.wait()
        if isinstance(self._loaded, Loaded):
            return self._loaded
        raise self._loaded or WorkerClosed("the worker link closed during the load")

    def open_replies(self, ask: Ask) -> list[ReplyStream]:
        """Send a request; the events of its choices arrive in the returned streams.

        Args:
            ask: The request; its sequence number is set here.

        Returns:
            One stream per choice, in order.

        Raises:
            InvalidRequest: The request cannot be encoded.
            WorkerError: The link has ended.
        """
        if self._closed_by is not None:
            raise self._closed_by
        first = self._next_sequence
        self._next_sequence += choice_count(ask)
        self.send(msgspec.structs.replace(ask, sequence=first))
        replies = [ReplyStream(number) for number in range(first, self._next_sequence)]
        self._replies.update({reply.sequence: reply for reply in replies})
        return replies

    async def inspect(self, prompt: Prompt) -> Inspected:
        """Ask what a prompt is as text and as token ids.

        Raises:
            RequestError: The model refuses the prompt.
            WorkerError: The link ended before the answer.
        """
        if self._closed_by is not None:
            raise self._closed_by
        inspection = _Inspection()
        number = self._next_sequence
        self._next_sequence += 1
        self.send(Inspect(number, prompt))
        self._inspections[number] = inspection
        try:
            await inspection.answered.wait()
        finally:
            self._inspections.pop(number, None)
        if isinstance(inspection.outcome, Inspected):
            return inspection.outcome
        raise inspection.outcome or WorkerClosed("the worker link closed")

    def close_reply(self, reply: ReplyStream) -> None:
        """The requester is done with it: tell the worker, unless it has ended already."""
        reply.on_change = None
        if self._replies.pop(reply.sequence, None) is not None:
            self.send(Cancel(reply.sequence))

    def send(self, command: Command) -> None:
        """Send now or as soon as the worker reads; never blocks. A dead worker shows in `run`."""
        frame = encode_command(command)
        sent = 0 if self._outbox else self._try_send(frame)
        if sent < len(frame):
            self._outbox += frame[sent:]
            self._outbox_filled.set()

    def end(self, error: LmxError) -> None:
        """Fail everything that still waits with `error`, now and from now on. Idempotent."""
        if self._closed_by is not None:
            return
        self._closed_by = error
        if self._loaded is None:
            self._loaded = error
        self._load_answered.set()
        for reply in list(self._replies.values()):
            reply.fail(error)
        self._replies.clear()
        for number in list(self._inspections):
            self._answer_inspection(number, error)
        self._outbox.clear()
        self._socket.close()

    async def _read_frames(self) -> None:
        decoder = event_decoder()
        while True:
            try:
                data = await self._socket.recv(RECEIVE_BYTES)
            except (OSError, trio.ClosedResourceError):
                return
            if not data:
                return
            for events in decoder.feed(data):
                for event in events:
                    self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Loaded):
            self._answer_load(event)
        elif isinstance(event, LoadFailed):
            self._answer_load(from_code(event.code, event.message))
        elif isinstance(event, Inspected):
            self._answer_inspection(event.sequence, event)
        elif isinstance(event, Vitals):
            self.sign_count += 1
            self.vitals = event
        elif isinstance(event, LeaseEvent):
            self.on_lease(event)
        elif isinstance(event, Rejected) and event.sequence in self._inspections:
            error = from_code(event.code, event.message, param=event.param)
            self._answer_inspection(event.sequence, error)
        else:
            reply = self._replies.get(event.sequence)
            if reply is None:
                return  # closed here: the daemon told the worker and stopped listening
            self.sign_count += 1
            reply.deliver(event)  # before it is forgotten: a bad event must fail this reply too
            if isinstance(event, Finished | Rejected):
                self._replies.pop(event.sequence, None)

    def _answer_inspection(self, number: int, outcome: Inspected | LmxError) -> None:
        inspection = self._inspections.get(number)
        if inspection is not None:
            inspection.outcome = outcome
            inspection.answered.set()

    def _answer_load(self, outcome: Loaded | LmxError) -> None:
        self._loaded = outcome
        self._load_answered.set()

    async def _write_outbox(self) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled = trio.Event()
            while self._outbox:
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    return  # `end` was called
                del self._outbox[: self._try_send(self._outbox)]

    def _try_send(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the worker is gone; the reader task finds out and says why


def _refuse_lease(event: LeaseEvent) -> None:
    raise FrameError(f"{type(event).__name__} from a worker that has no seat at the lease")
