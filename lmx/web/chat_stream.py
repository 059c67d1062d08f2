"""One chat answer: planned from a parsed request, then streamed to whoever gives a sink.

The HTTP route and the WebSocket share it; they differ in how they spell the stream and where it
goes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lmx.config import ModelSettings
from lmx.daemon.dispatch import Dispatch, Reply
from lmx.daemon.origin import Origin
from lmx.protocol.messages import Generate
from lmx.protocol.values import Usage
from lmx.schema.chat_reply import THINK_MARKS, ReasoningMarks
from lmx.schema.chat_request import ChatRequest, is_reasoning_inline, offered_tools, to_generate
from lmx.schema.reply import ReplyHead, completion_id
from lmx.text.tools.family import Tools
from lmx.web.answers import StartStream, answer_parser, reply_head, stream_answer
from lmx.web.streaming import MakeParser, StreamEncoder


class ChatJob(NamedTuple):
    """A parsed request: what to generate and how to say it."""

    request: ChatRequest
    generate: Generate
    tools: Tools
    may_call_many: bool
    marks: ReasoningMarks | None


def plan_chat(request: ChatRequest, models: ModelSettings, default_priority: int) -> ChatJob:
    """What a request asks for, with the settings' defaults.

    Args:
        request: Checked by itself.
        models: The settings.
        default_priority: What counts where the request does not say.

    Raises:
        InvalidRequest: Fields contradict each other.
        UnsupportedFeature: A message holds something that no text model can read.
    """
    generate = to_generate(
        request,
        default_max_tokens=models.default_max_tokens,
        default_temperature=models.default_temperature,
        default_priority=default_priority,
    )
    is_inline = is_reasoning_inline(request, models.inline_reasoning)
    return ChatJob(
        request,
        generate,
        offered_tools(request),
        may_call_many=request.parallel_tool_calls is not False,
        marks=THINK_MARKS if is_inline else None,
    )


def chat_parser(job: ChatJob, reply: Reply) -> MakeParser:
    """Makes a parser for each choice of a job's answer."""
    return partial(answer_parser, reply.started, job.tools, may_call_many=job.may_call_many)


class ChatStream:
    """A chat answer to be streamed, once.

    Args:
        dispatch: Opens its reply.
        job: What to generate.
        origin: Where the request comes from.
        make_encoder: Spells the answer, given its head.

    Attributes:
        reply: The reply, while there is one.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        job: ChatJob,
        origin: Origin,
        *,
        make_encoder: Callable[[ReplyHead], StreamEncoder],
    ) -> None:
        self._dispatch = dispatch
        self._job = job
        self._origin = origin
        self._make_encoder = make_encoder
        self.reply: Reply | None = None

    async def perform(self, start: StartStream, *, heartbeat_s: float) -> None:
        """Give the answer.

        Args:
            start: Begins the stream, once it is sure that there is an answer.
            heartbeat_s: Silence after which a sign of life is sent.

        Raises:
            LmxError: It was refused or broke before it began.
            trio.BrokenResourceError: The client is gone.
        """
        job, origin = self._job, self._origin
        model_name = job.request.model or ""
        async with self._dispatch.open(job.generate, model_name=model_name, origin=origin) as reply:
            self.reply = reply
            head = reply_head(completion_id(origin.request_id), reply.model_id)
            await stream_answer(
                start,
                reply,
                self._make_encoder(head),
                make_parser=chat_parser(job, reply),
                heartbeat_s=heartbeat_s,
            )

    def stop_thinking(self) -> None:
        """End the reasoning, if the model is at it or going to be, and go on with the answer."""
        if self.reply is not None:
            self.reply.stop_thinking()

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        if self.reply is None:
            return Usage(0, 0)
        tallies = [choice.tally for choice in self.reply.choices if choice.tally is not None]
        generated = sum(tally.token_count for tally in tallies)
        return Usage(self.reply.started.prompt_tokens, generated)
