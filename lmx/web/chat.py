"""``POST /v1/chat/completions`` as a raw ASGI handler."""

from functools import partial

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.presets import Presets
from lmx.schema.chat_reply import ChatStreamEncoder, WholeChoice, encode_completion
from lmx.schema.chat_request import parse_chat_request
from lmx.schema.prefix_header import encode_cache_header
from lmx.schema.reply import completion_id, merge_usage
from lmx.schema.skill_reply import encode_whole_loop
from lmx.skills.loop import LoopHead, SkillLoop
from lmx.skills.service import Skills
from lmx.web.answers import collect_answer, reply_head
from lmx.web.chat_stream import ChatJob, ChatStream, chat_parser, plan_chat
from lmx.web.exchange import JSON_HEADERS, Answer, Exchange, parse_body
from lmx.web.resume import AnswerKeeper
from lmx.web.skill_stream import SkillStream, collect_loop, make_loop

ROUTE = "/v1/chat/completions"


class ChatRoute:
    """Parses a request, opens a reply and gives it streamed or whole.

    Args:
        dispatch: Opens replies.
        settings: Defaults and limits.
        keeper: Keeps streams that are to survive their connection.
        presets: What names of models may stand for beside models.
        skills: What models may call.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        settings: Settings,
        keeper: AnswerKeeper,
        *,
        presets: Presets,
        skills: Skills,
    ) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._keeper = keeper
        self._presets = presets
        self._skills = skills

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange."""
        if exchange.last_event_id:
            await self._keeper.take_up(exchange)
            return None
        timeout_s = self._settings.server.body_timeout_s
        parse = partial(self._parse, default_priority=exchange.priority)
        job = await parse_body(exchange, parse, timeout_s=timeout_s)
        loop = self._make_loop(job, exchange) if job.request.asked_skills else None
        if not job.request.stream:
            if loop is not None:
                return await self._collect_loop(exchange, job, loop)
            return await self._collect(exchange, job)
        options = job.request.stream_options
        make_encoder = partial(
            ChatStreamEncoder,
            include_usage=options is not None and bool(options.include_usage),
            inline_reasoning=job.marks,
        )
        origin = exchange.origin(ROUTE)
        stream: ChatStream | SkillStream
        if loop is None:
            stream = ChatStream(self._dispatch, job, origin, make_encoder=make_encoder)
        else:
            stream = SkillStream(loop, origin, make_encoder=make_encoder)
        resumable = job.request.resumable
        await self._keeper.stream(exchange, stream.perform, resumable=resumable)
        return None

    def _parse(self, body: bytes, *, default_priority: int) -> ChatJob:
        request = self._presets.fill(parse_chat_request(body))
        return plan_chat(request, self._settings.models, default_priority)

    def _make_loop(self, job: ChatJob, exchange: Exchange) -> SkillLoop:
        return make_loop(
            job,
            self._skills,
            self._settings.skills,
            dispatch=self._dispatch,
            origin=exchange.origin(ROUTE),
        )

    async def _collect_loop(self, exchange: Exchange, job: ChatJob, loop: SkillLoop) -> Answer:
        told = await collect_loop(loop, is_scored=bool(job.request.logprobs))
        begun = loop.head or LoopHead("", ())
        head = reply_head(completion_id(exchange.request_id), begun.model_id)
        body = encode_whole_loop(head, told, loop.feed.usage, marks=job.marks)
        return Answer(body, headers=(*JSON_HEADERS, *begun.headers))

    async def _collect(self, exchange: Exchange, job: ChatJob) -> Answer:
        model_name, origin = job.request.model or "", exchange.origin(ROUTE)
        async with self._dispatch.open(job.generate, model_name=model_name, origin=origin) as reply:
            head = reply_head(completion_id(exchange.request_id), reply.model_id)
            collected = await collect_answer(reply, make_parser=chat_parser(job, reply))
            is_scored = bool(job.request.logprobs)
            choices = [
                WholeChoice(choice.parts, choice.logprobs if is_scored else None, choice.reason)
                for choice in collected
            ]
            usage = merge_usage(reply.usages)
        body = encode_completion(head, choices, usage, inline_reasoning=job.marks)
        return Answer(body, headers=(*JSON_HEADERS, *encode_cache_header(reply.prompts)))
