"""A streamed answer that is kept while it grows, so that a cut connection can be taken up again.

The log is where the answer is written to, and any number of connections read from it, each at its
own place. Every frame has an id of the answer's id and its number; a reader that names the last one
it has gets all after it, byte for byte as the first reader did. It knows frames, not clients.
"""

from collections.abc import Callable
from typing import NamedTuple

import trio

from lmx.schema.problems import Headers
from lmx.web.pump import Listener


class Framing(NamedTuple):
    """How a transport's frames are told apart and numbered.

    Attributes:
        name: What clients call the transport.
        end: What every frame ends in, and none holds inside.
        number: A frame with its id in it.
    """

    name: str
    end: bytes
    number: Callable[[bytes, str], bytes]


# A server-sent event ends in an empty line; its JSON holds no line break of its own.
SSE_FRAMING = Framing("SSE", b"\n\n", lambda frame, mark: b"id: %b\n%b" % (mark.encode(), frame))
# A message is a line, and a JSON object whose first key can be put before the others.
MESSAGE_FRAMING = Framing(
    "WebSocket", b"\n", lambda frame, mark: b'{"event_id":"%b",%b' % (mark.encode(), frame[1:])
)


class AnswerLog:
    """One answer's frames: a sink that never blocks, and the source of its readers.

    Args:
        answer_id: Begins every frame's id; hard to guess, since it is all that a reader shows.
        framing: Of the transport the answer is spelled for.
        on_growth: Told how many bytes more, or fewer, it holds.

    Attributes:
        answer_id: The same.
        framing: The same.
        opened: Set when the first frame is there or it is known that none will be.
        is_over: Whether all frames are there.
        held_bytes: What it holds.
        headers: What goes before it, on transports with headers.
    """

    is_blocked = False

    def __init__(self, answer_id: str, framing: Framing, on_growth: Callable[[int], None]) -> None:
        self.answer_id = answer_id
        self.framing = framing
        self.opened = trio.Event()
        self.is_over = False
        self.held_bytes = 0
        self.headers: Headers = ()
        self._on_growth = on_growth
        self._frames: list[bytes] = []
        self._dropped = 0  # frames before the first that is held
        self._is_trimmed = False
        self._readers: set[LogReader] = set()

    @property
    def frame_count(self) -> int:
        """Frames so far, dropped ones included."""
        return self._dropped + len(self._frames)

    @property
    def has_readers(self) -> bool:
        """Whether a connection reads it now."""
        return bool(self._readers)

    async def start(self, first: bytes, headers: Headers = ()) -> "AnswerLog":
        """The answer begins; see `lmx.web.answers.StartStream`."""
        await trio.lowlevel.checkpoint()
        self.headers = headers
        self.feed(first)
        self.opened.set()
        return self

    def feed(self, data: bytes) -> None:
        """Keep whole frames."""
        if self.is_over:
            return  # cancelled; what still comes is no part of it
        end = self.framing.end
        for frame in data.split(end)[:-1]:
            mark = f"{self.answer_id}:{self.frame_count + 1}"
            numbered = self.framing.number(frame, mark) + end
            self._frames.append(numbered)
            self._grow(len(numbered))
        self._wake()
        self.drop_read()

    async def flush(self) -> None:
        """Nothing ever waits."""
        await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """No more will come."""
        self.is_over = True
        self.opened.set()
        self._wake()

    def read_after(self, number: int) -> "LogReader":
        """A reader of the frames after this one; 0 for all."""
        return LogReader(self, number)

    def trim(self) -> None:
        """Hold from now on only what a reader has not had; nobody can take it up any more."""
        self._is_trimmed = True
        self.drop_read()

    def drop_read(self) -> None:
        """Let go of what every reader has had, if it is trimmed."""
        if not self._is_trimmed:
            return
        lowest = min((reader.number for reader in self._readers), default=self.frame_count)
        gone = self._frames[: lowest - self._dropped]
        del self._frames[: len(gone)]
        self._dropped += len(gone)
        self._grow(-sum(map(len, gone)))

    def frames_after(self, number: int) -> bytes:
        """All frames after this one."""
        return b"".join(self._frames[max(0, number - self._dropped) :])

    def join(self, reader: "LogReader") -> None:
        """A reader wants to hear of changes."""
        self._readers.add(reader)

    def leave(self, reader: "LogReader") -> None:
        """It does not any more."""
        self._readers.discard(reader)
        self.drop_read()

    def _grow(self, count: int) -> None:
        self.held_bytes += count
        self._on_growth(count)

    def _wake(self) -> None:
        for reader in list(self._readers):
            reader.wake()


class LogReader:
    """One connection's place in a log; a source of its bytes.

    Attributes:
        number: Of the last frame it was given.
    """

    def __init__(self, log: AnswerLog, number: int) -> None:
        self._log = log
        self._listener: Listener | None = None
        self.number = number

    @property
    def is_ended(self) -> bool:
        """Whether `take` has given the last frame there will be."""
        return self._log.is_over and self.has_all

    @property
    def has_all(self) -> bool:
        """Whether it was given every frame there is."""
        return self.number >= self._log.frame_count

    def take(self) -> bytes:
        """Every frame it has not been given yet."""
        data = self._log.frames_after(self.number)
        self.number = self._log.frame_count
        self._log.drop_read()
        return data

    def listen(self, listener: Listener | None) -> None:
        """See `lmx.web.pump.Source`."""
        self._listener = listener
        if listener is None:
            self._log.leave(self)
        else:
            self._log.join(self)

    def wake(self) -> None:
        """There is something new."""
        if self._listener is not None:
            self._listener()
