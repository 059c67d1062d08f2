"""``POST /v1/messages`` and ``/v1/messages/count_tokens`` as raw ASGI handlers."""

from functools import partial

import msgspec

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch, Reply
from lmx.daemon.origin import Origin
from lmx.daemon.presets import Presets
from lmx.errors import LmxError
from lmx.protocol.values import Usage
from lmx.schema.anthropic_reply import (
    AnthropicStreamEncoder,
    TokenCountReply,
    encode_message,
    error_document,
    message_id,
)
from lmx.schema.anthropic_request import parse_anthropic_request, parse_count_request
from lmx.schema.prefix_header import encode_cache_header
from lmx.schema.problems import encode_problem
from lmx.schema.reply import merge_usage
from lmx.web.answers import StartStream, collect_answer, reply_head, stream_answer
from lmx.web.chat_stream import ChatJob, chat_parser, plan_chat
from lmx.web.exchange import JSON_HEADERS, Answer, Exchange, parse_body
from lmx.web.resume import AnswerKeeper

ROUTE = "/v1/messages"


class MessagesRoute:
    """Parses a request, opens a reply and gives it streamed or whole.

    Args:
        dispatch: Opens replies.
        settings: Defaults and limits.
        keeper: Streams answers.
        presets: What names of models may stand for beside models.
    """

    def __init__(
        self, dispatch: Dispatch, settings: Settings, keeper: AnswerKeeper, *, presets: Presets
    ) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._keeper = keeper
        self._presets = presets

    async def answer(self, exchange: Exchange) -> Answer | None:
        """``POST /v1/messages``."""
        try:
            parse = partial(self._parse, default_priority=exchange.priority)
            job = await parse_body(exchange, parse, timeout_s=self._timeout_s)
            if not job.request.stream:
                return await self._collect(exchange, job)
            perform = partial(self._stream, job, exchange.origin(ROUTE))
            # Its clients know no ids of events.
            await self._keeper.stream(exchange, perform, resumable=False)
        except LmxError as error:
            return _problem(error)
        return None

    async def count_tokens(self, exchange: Exchange) -> Answer:
        """``POST /v1/messages/count_tokens``."""
        try:
            parse = partial(self._parse_prompt, default_priority=exchange.priority)
            job = await parse_body(exchange, parse, timeout_s=self._timeout_s)
            name = job.request.model or ""
            _, inspected = await self._dispatch.inspect(job.generate.prompt, model_name=name)
        except LmxError as error:
            return _problem(error)
        return Answer(msgspec.json.encode(TokenCountReply(len(inspected.token_ids))))

    @property
    def _timeout_s(self) -> float:
        return self._settings.server.body_timeout_s

    def _parse(self, body: bytes, *, default_priority: int) -> ChatJob:
        request = self._presets.fill(parse_anthropic_request(body))
        return plan_chat(request, self._settings.models, default_priority)

    def _parse_prompt(self, body: bytes, *, default_priority: int) -> ChatJob:
        request = self._presets.fill(parse_count_request(body))
        return plan_chat(request, self._settings.models, default_priority)

    async def _collect(self, exchange: Exchange, job: ChatJob) -> Answer:
        name, origin = job.request.model or "", exchange.origin(ROUTE)
        async with self._dispatch.open(job.generate, model_name=name, origin=origin) as reply:
            (choice,) = await collect_answer(reply, make_parser=chat_parser(job, reply))
            head = reply_head(message_id(exchange.request_id), reply.model_id)
            usage, stop = merge_usage(reply.usages), _met_stop(reply)
        body = encode_message(head, choice.parts, usage, reason=choice.reason, stop=stop)
        return Answer(body, headers=(*JSON_HEADERS, *encode_cache_header(reply.prompts)))

    async def _stream(
        self, job: ChatJob, origin: Origin, start: StartStream, *, heartbeat_s: float
    ) -> None:
        name = job.request.model or ""
        async with self._dispatch.open(job.generate, model_name=name, origin=origin) as reply:
            head = reply_head(message_id(origin.request_id), reply.model_id)
            started = reply.started
            prompt = Usage(started.prompt_tokens, 0, cached_tokens=started.cached_tokens)
            await stream_answer(
                start,
                reply,
                AnthropicStreamEncoder(head, prompt, met_stop=partial(_met_stop, reply)),
                make_parser=chat_parser(job, reply),
                heartbeat_s=heartbeat_s,
            )


def _met_stop(reply: Reply) -> str | None:
    end = reply.choices[0].end
    return None if end is None else end.stop


def _problem(error: LmxError) -> Answer:
    reply = encode_problem(error)
    return Answer(msgspec.json.encode(error_document(error)), reply.status, reply.headers)
