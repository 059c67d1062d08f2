"""The intake thread: reads commands, renders and tokenises, decides admission to the context.

It runs beside the engine thread so that a 100k-token prompt does not stall running streams. It
touches the tokenizer and the channel, never the engine. When the daemon's end of the pipe closes
it ends the whole process at once, whatever the engine thread is inside of: a worker never outlives
its daemon.
"""

import queue
import sys
import time

import msgspec

from lmx.engines.base import LoadedEngine
from lmx.errors import ContextTooLong, FrameError, InvalidRequest, RequestError
from lmx.protocol.messages import Cancel, Command, Generate, Load, Rejected, Shutdown, Started
from lmx.worker.channel import Channel
from lmx.worker.scheduler import Ready

Work = Ready | Cancel | Shutdown
# EX_PROTOCOL of sysexits.h: the daemon spoke something else.
EXIT_BAD_FRAME = 76


def choose_max_tokens(wanted: int, *, prompt_tokens: int, context_tokens: int) -> int:
    """Clamp a request's budget to what the context leaves.

    Raises:
        ContextTooLong: The prompt leaves no room for a single token.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextTooLong(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has "
            f"{prompt_tokens} tokens, and at least one token must be left for the answer.",
            param="messages",
        )
    return min(wanted, room)


class Intake:
    """Turns commands into work for the engine thread.

    Args:
        channel: Where commands come from and verdicts go.
    """

    def __init__(self, channel: Channel) -> None:
        self.loads: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._channel = channel
        self._loaded: LoadedEngine | None = None  # set before the daemon hears `Loaded`

    def serve(self, loaded: LoadedEngine) -> None:
        """Accept `Generate` commands for this engine from now on."""
        self._loaded = loaded

    def run(self) -> int:
        """Take commands until the pipe ends.

        Returns:
            The status with which the process must end now.
        """
        try:
            for command in self._channel.commands():
                self._take(command)
        except FrameError as error:
            sys.stderr.write(f"lmx worker: {error}\n")
            return EXIT_BAD_FRAME
        return 0

    def _take(self, command: Command) -> None:
        if isinstance(command, Load):
            self.loads.put(command)
        elif isinstance(command, Generate):
            self._tokenise(command)
        else:
            self.work.put(command)

    def _tokenise(self, generate: Generate) -> None:
        if self._loaded is None:
            raise FrameError("a request came before the model was loaded")
        try:
            ready = _prepare(generate, self._loaded)
        except RequestError as error:
            refusal = Rejected(generate.sequence, error.code, error.message, error.param)
            self._channel.send([refusal])
            return
        self._channel.send([Started(generate.sequence, len(ready.token_ids))])
        self.work.put(ready)


def _prepare(generate: Generate, loaded: LoadedEngine) -> Ready:
    token_ids = loaded.tokenizer.encode(loaded.tokenizer.render(generate.messages))
    if not token_ids:
        raise InvalidRequest("the rendered prompt is empty", param="messages")
    max_tokens = choose_max_tokens(
        generate.sampling.max_tokens,
        prompt_tokens=len(token_ids),
        context_tokens=loaded.engine.info.context_tokens,
    )
    return Ready(
        generate.sequence,
        token_ids,
        sampling=msgspec.structs.replace(generate.sampling, max_tokens=max_tokens),
        stop=generate.stop,
        ready_at_s=time.monotonic(),
    )
