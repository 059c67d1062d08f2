"""``POST /v1/chat/completions`` as a raw ASGI handler."""

from functools import partial
from typing import NamedTuple

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch, Reply
from lmx.protocol.messages import Generate
from lmx.schema.chat_reply import (
    THINK_MARKS,
    ChatStreamEncoder,
    ReasoningMarks,
    WholeChoice,
    encode_completion,
)
from lmx.schema.chat_request import (
    ChatRequest,
    is_reasoning_inline,
    offered_tools,
    parse_chat_request,
    to_generate,
)
from lmx.schema.reply import ReplyHead, completion_id, merge_usage
from lmx.text.tools.family import Tools
from lmx.web.answers import answer_parser, collect_answer, reply_head, stream_answer
from lmx.web.exchange import Answer, Exchange, parse_body
from lmx.web.streaming import MakeParser

ROUTE = "/v1/chat/completions"


class ChatJob(NamedTuple):
    """A parsed request: what to generate and how to say it."""

    request: ChatRequest
    generate: Generate
    tools: Tools
    may_call_many: bool
    marks: ReasoningMarks | None


class ChatRoute:
    """Parses a request, opens a reply and gives it streamed or whole.

    Args:
        dispatch: Opens replies.
        settings: Defaults and limits.
    """

    def __init__(self, dispatch: Dispatch, settings: Settings) -> None:
        self._dispatch = dispatch
        self._settings = settings

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange."""
        timeout_s = self._settings.server.body_timeout_s
        job = await parse_body(exchange, self._parse, timeout_s=timeout_s)
        model_name = job.request.model or ""
        origin = exchange.origin(ROUTE)
        async with self._dispatch.open(job.generate, model_name=model_name, origin=origin) as reply:
            head = reply_head(completion_id(exchange.request_id), reply.model_id)
            make_parser = partial(
                answer_parser, reply.started, job.tools, may_call_many=job.may_call_many
            )
            if job.request.stream:
                await self._stream(exchange, job, reply=reply, head=head, make_parser=make_parser)
                return None
            return await _collect(job, reply, head, make_parser=make_parser)

    def _parse(self, body: bytes) -> ChatJob:
        request = parse_chat_request(body)
        models = self._settings.models
        generate = to_generate(
            request,
            default_max_tokens=models.default_max_tokens,
            default_temperature=models.default_temperature,
        )
        is_inline = is_reasoning_inline(request, models.inline_reasoning)
        return ChatJob(
            request,
            generate,
            offered_tools(request),
            may_call_many=request.parallel_tool_calls is not False,
            marks=THINK_MARKS if is_inline else None,
        )

    async def _stream(
        self,
        exchange: Exchange,
        job: ChatJob,
        *,
        reply: Reply,
        head: ReplyHead,
        make_parser: MakeParser,
    ) -> None:
        options = job.request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        encoder = ChatStreamEncoder(head, include_usage=include_usage, inline_reasoning=job.marks)
        await stream_answer(
            exchange,
            reply,
            encoder,
            first=b"".join(encoder.first(index) for index in range(len(reply.choices))),
            make_parser=make_parser,
            heartbeat_s=self._settings.server.heartbeat_s,
        )


async def _collect(
    job: ChatJob, reply: Reply, head: ReplyHead, *, make_parser: MakeParser
) -> Answer:
    collected = await collect_answer(reply, make_parser=make_parser)
    is_scored = bool(job.request.logprobs)
    choices = [
        WholeChoice(choice.parts, choice.logprobs if is_scored else None, choice.reason)
        for choice in collected
    ]
    usage = merge_usage(reply.usages)
    return Answer(encode_completion(head, choices, usage, inline_reasoning=job.marks))
