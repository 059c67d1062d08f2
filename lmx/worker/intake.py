"""The intake thread: reads commands, renders and tokenises, decides admission to the context.

It runs beside the engine thread so that a 100k-token prompt does not stall running streams. It
touches the tokenizer and the channel, never the engine. When the daemon's end of the pipe closes
it ends the whole process at once, whatever the engine thread is inside of: a worker never outlives
its daemon.
"""

import queue
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from lmx.engines.base import Choice, LoadedEngine, PrefixUse, Tokenizer
from lmx.errors import ContextTooLong, FrameError, InvalidRequest, RequestError
from lmx.protocol.messages import (
    Ask,
    Cancel,
    ChatPrompt,
    Command,
    Generate,
    Inspect,
    Inspected,
    LeaseCommand,
    Load,
    Prepare,
    Rejected,
    Shrink,
    Shutdown,
    Started,
    StopThinking,
    choice_count,
)
from lmx.protocol.values import Sampling
from lmx.worker.channel import Channel
from lmx.worker.constraints import make_constraint
from lmx.worker.dialect import ModelDialect
from lmx.worker.outlook import explain_miss
from lmx.worker.prompt import Rendered, render_prompt
from lmx.worker.scheduler import Ready
from lmx.worker.trimming import render_within
from lmx.worker.vectors import VectorJob

if TYPE_CHECKING:
    from lmx.worker.vector_intake import VectorsServed

Work = Ready | VectorJob | Cancel | Shutdown | Shrink | LeaseCommand | StopThinking
# EX_PROTOCOL of sysexits.h: the daemon spoke something else.
EXIT_BAD_FRAME = 76
# The part of a limited context that a conversation leaves for its answer, if that wants so much.
ANSWER_SHARE = 4


def choose_max_tokens(
    wanted: int, *, prompt_tokens: int, context_tokens: int, param: str = "messages"
) -> int:
    """Clamp a request's budget to what the context leaves.

    Args:
        wanted: Tokens the request asks for.
        prompt_tokens: Tokens of its prompt.
        context_tokens: Tokens the model takes at most.
        param: The request's field that holds the prompt.

    Raises:
        ContextTooLong: The prompt leaves no room for a single token.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextTooLong(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has "
            f"{prompt_tokens} tokens, and at least one token must be left for the answer.",
            param=param,
        )
    return min(wanted, room)


def check_bias(sampling: Sampling, tokenizer: Tokenizer) -> None:
    """A bias on a token that does not exist would change nothing.

    Raises:
        InvalidRequest: The vocabulary lacks one of the biased ids.
    """
    for token_id in sampling.logit_bias:
        if not tokenizer.token_bytes(token_id):
            raise InvalidRequest(
                f"the vocabulary has no token {token_id}", param=f"logit_bias.{token_id}"
            )


class Intake:
    """Turns commands into work for the engine thread.

    Args:
        channel: Where commands come from and verdicts go.
    """

    def __init__(self, channel: Channel) -> None:
        self.loads: queue.SimpleQueue[Load | Prepare] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._channel = channel
        self._served: Served | VectorsServed | None = None  # set before the daemon hears `Loaded`

    def serve(self, served: "Served | VectorsServed") -> None:
        """Accept requests for this model from now on."""
        self._served = served

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
        if isinstance(command, Load | Prepare):
            self.loads.put(command)
        elif isinstance(command, Ask):
            self._accept(command)
        elif isinstance(command, Inspect):
            self._inspect(command)
        else:
            self.work.put(command)
        if isinstance(command, Cancel) and self._served is not None:
            # After the command is queued, so that the step that ends early finds it.
            self._served.interrupt(command.sequence)

    def _accept(self, ask: Ask) -> None:
        if self._served is None:
            raise FrameError("a request came before the model was loaded")
        try:
            started, work = self._served.accept(ask)
        except RequestError as error:
            count = choice_count(ask)
            self._channel.send(
                [
                    Rejected(number, error.code, error.message, error.param)
                    for number in range(ask.sequence, ask.sequence + count)
                ]
            )
            return
        self._channel.send(started)
        self.work.put(work)

    def _inspect(self, command: Inspect) -> None:
        if self._served is None:
            raise FrameError("a request came before the model was loaded")
        try:
            event: Inspected | Rejected = self._served.inspect(command)
        except RequestError as error:
            event = Rejected(command.sequence, error.code, error.message, error.param)
        self._channel.send([event])


class Served:
    """A loaded model as the intake thread sees it.

    Attributes:
        dialect: How the model spells markup.
    """

    def __init__(self, loaded: LoadedEngine, dialect: str = "") -> None:
        self._loaded = loaded
        self.dialect = ModelDialect(loaded.tokenizer, dialect)

    def accept(self, ask: Ask) -> tuple[list[Started], Ready]:
        """What a request begins with, and the work it is.

        Raises:
            RequestError: The request cannot be answered by this model.
        """
        if not isinstance(ask, Generate):
            raise InvalidRequest("this model generates text; it has no vectors", param="model")
        rendered, ready = self.prepare(ask)
        first = Started(
            ask.sequence,
            len(ready.token_ids),
            rendered.dialect,
            rendered.reasoning,
            rendered.in_reasoning,
            rendered.text if ask.wants_prompt else None,
            *self._foresee(ready),
        )
        numbers = range(ask.sequence, ask.sequence + len(ask.samplings))
        return [msgspec.structs.replace(first, sequence=number) for number in numbers], ready

    def _foresee(self, ready: Ready) -> tuple[int, str]:
        """How much of a prompt is there already, and why not more."""
        if ready.wants_prompt_logprobs:
            return 0, "logprobs"
        outlook = self._loaded.engine.foresee(ready.token_ids, ready.prefix)
        token_bytes = self._loaded.tokenizer.token_bytes
        return outlook.cached_tokens, explain_miss(outlook, ready.token_ids, token_bytes)

    def prepare(self, generate: Generate) -> tuple[Rendered, Ready]:
        """Everything that may refuse a request, before any device work.

        Raises:
            RequestError: The request cannot be answered by this model.
        """
        tokenizer, info = self._loaded.tokenizer, self._loaded.engine.info
        if len(generate.samplings) > info.max_sequences:
            raise InvalidRequest(
                f"this model gives at most {info.max_sequences} answers at once", param="n"
            )
        check_bias(generate.samplings[0], tokenizer)
        context_tokens = min(info.context_tokens, generate.context_tokens or info.context_tokens)
        rendered = self._render(generate, context_tokens)
        choices = []
        for offset, wanted in enumerate(generate.samplings):
            max_tokens = choose_max_tokens(
                wanted.max_tokens,
                prompt_tokens=len(rendered.token_ids),
                context_tokens=context_tokens,
                param="messages" if isinstance(generate.prompt, ChatPrompt) else "prompt",
            )
            constraint = make_constraint(
                generate, rendered, tokenizer=tokenizer, grammars=self._loaded.grammars
            )
            sampling = msgspec.structs.replace(wanted, max_tokens=max_tokens)
            choices.append(Choice(generate.sequence + offset, sampling, constraint))
        ready = Ready(
            choices,
            rendered.token_ids,
            stop=generate.stop,
            wants_prompt_logprobs=generate.wants_prompt
            and generate.samplings[0].top_logprobs is not None,
            ready_at_s=time.monotonic(),
            client=generate.client,
            priority=generate.priority,
            prefix=PrefixUse(generate.salt, *rendered.boundaries),
        )
        return rendered, ready

    def _render(self, generate: Generate, context_tokens: int) -> Rendered:
        prompt, tokenizer = generate.prompt, self._loaded.tokenizer
        if generate.context_tokens is None or not isinstance(prompt, ChatPrompt):
            return render_prompt(prompt, tokenizer, self.dialect)
        wanted = generate.samplings[0].max_tokens
        room = context_tokens - min(wanted, context_tokens // ANSWER_SHARE)
        return render_within(prompt, tokenizer, self.dialect, limit_tokens=room)

    def interrupt(self, sequence: int) -> None:
        """Tell the engine that a sequence is about to be cancelled."""
        self._loaded.engine.interrupt(sequence)

    def inspect(self, command: Inspect) -> Inspected:
        """A prompt as text and as token ids.

        Raises:
            RequestError: The template refuses it, or an id is none of the vocabulary.
        """
        tokenizer = self._loaded.tokenizer
        rendered = render_prompt(command.prompt, tokenizer, self.dialect, may_be_empty=True)
        spelled = [tokenizer.token_bytes(token_id) for token_id in rendered.token_ids]
        tokens = [piece.decode("utf-8", "replace") for piece in spelled]
        return Inspected(command.sequence, rendered.text, rendered.token_ids, tokens)
