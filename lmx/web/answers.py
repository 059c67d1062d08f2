"""What every generating route does: open a reply, then stream it or collect it.

A route brings its dialect; how text becomes parts is decided by what the worker says at the start.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from lmx import __version__
from lmx.daemon.dispatch import Reply, reply_error
from lmx.errors import LmxError
from lmx.protocol.messages import Started
from lmx.protocol.values import FinishReason, TokenLogprob
from lmx.schema.prefix_header import encode_cache_header
from lmx.schema.problems import Headers
from lmx.schema.reply import ReplyHead
from lmx.text.dialects import dialect_named
from lmx.text.output import AnswerParser
from lmx.text.parts import AnswerPart, TextPart
from lmx.web.pump import Pump
from lmx.web.sink import Sink
from lmx.web.streaming import MakeParser, Parser, ReplySource, StreamEncoder

SYSTEM_FINGERPRINT = f"lmx-{__version__}"


class Collected(NamedTuple):
    """One whole choice.

    Attributes:
        parts: What a stream would have sent, in order.
        logprobs: Of every token, if asked for.
        prompt_logprobs: Of the prompt's tokens, if asked for.
        reason: Why it ended.
    """

    parts: list[AnswerPart]
    logprobs: list[TokenLogprob]
    prompt_logprobs: list[TokenLogprob]
    reason: FinishReason


class PlainParser:
    """Text as it comes, for routes that know no markup."""

    def feed(self, text: str) -> list[AnswerPart]:
        """The text itself."""
        return [TextPart(text)]

    def finish(self, _reason: FinishReason) -> list[AnswerPart]:
        """Nothing is ever held."""
        return []


def reply_head(answer_id: str, model_id: str) -> ReplyHead:
    """What every part of one answer repeats."""
    return ReplyHead(
        id=answer_id,
        created=int(time.time()),
        model=model_id,
        system_fingerprint=SYSTEM_FINGERPRINT,
    )


def answer_parser(
    started: Started, tools: Mapping[str, Mapping[str, Any]], *, may_call_many: bool
) -> Parser:
    """A parser for one choice of a chat answer."""
    return AnswerParser(
        dialect_named(started.dialect, started.reasoning),
        tools=tools,
        starts_in_reasoning=started.in_reasoning,
        may_call_many=may_call_many,
    )


class StartStream(Protocol):
    """Begins a stream."""

    async def __call__(self, first: bytes, headers: Headers = ()) -> Sink:
        """Begin it.

        Args:
            first: Its first bytes.
            headers: What goes before it, where the transport has headers.

        Returns:
            What takes the other bytes.
        """


async def stream_answer(
    start: StartStream,
    reply: Reply,
    encoder: StreamEncoder,
    *,
    make_parser: MakeParser,
    heartbeat_s: float,
) -> None:
    """Send the head and first frames, then everything the reply says."""
    headers = encode_cache_header(reply.prompts)
    sink = await start(encoder.opening(len(reply.choices)), headers)
    source = ReplySource(reply, encoder, make_parser=make_parser)
    await Pump(source, sink, heartbeat=encoder.heartbeat, heartbeat_s=heartbeat_s).run()


async def collect_answer(reply: Reply, *, make_parser: MakeParser) -> list[Collected]:
    """The same parts that a stream would have sent, all choices whole.

    Raises:
        LmxError: A choice ended badly.
    """
    collected = []
    for choice in reply.choices:
        parser = make_parser()
        parts: list[AnswerPart] = []
        while not choice.is_over:
            await choice.wait_change()
        if text := choice.take_text():
            parts += parser.feed(text)
        error, end = reply_error(choice), choice.end
        if error is not None or end is None:
            raise error or LmxError("the generation failed")
        parts += parser.finish(end.reason)
        scores = choice.take_logprobs()
        collected.append(Collected(parts, scores, choice.prompt_logprobs, end.reason))
    return collected
