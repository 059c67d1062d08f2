"""``POST /v1/completions`` as a raw ASGI handler: one reply per prompt, shown as one answer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch, Reply
from lmx.daemon.origin import Origin
from lmx.daemon.presets import Presets
from lmx.protocol.messages import Generate
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.completion_reply import (
    CompletionStreamEncoder,
    Echo,
    WholeText,
    choose_best,
    encode_text_completion,
)
from lmx.schema.completion_request import (
    CompletionRequest,
    choice_count,
    parse_completion_request,
    to_generates,
)
from lmx.schema.prefix_header import encode_cache_header
from lmx.schema.reply import completion_id, merge_usage, sum_usage
from lmx.text.parts import AnswerPart, TextPart
from lmx.web.answers import (
    Collected,
    PlainParser,
    StartStream,
    collect_answer,
    reply_head,
    stream_answer,
)
from lmx.web.exchange import JSON_HEADERS, Answer, Exchange, parse_body
from lmx.web.resume import AnswerKeeper

ROUTE = "/v1/completions"


class CompletionJob(NamedTuple):
    """A parsed request, and what to generate for each of its prompts."""

    request: CompletionRequest
    generates: list[Generate]


class CompletionRoute:
    """Parses a request, opens its replies and gives them streamed or whole.

    Args:
        dispatch: Opens replies.
        settings: Defaults and limits.
        keeper: Keeps streams that are to survive their connection.
        presets: What names of models may stand for beside models.
    """

    def __init__(
        self, dispatch: Dispatch, settings: Settings, keeper: AnswerKeeper, *, presets: Presets
    ) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._keeper = keeper
        self._presets = presets

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange."""
        if exchange.last_event_id:
            await self._keeper.take_up(exchange)
            return None
        timeout_s = self._settings.server.body_timeout_s
        parse = partial(self._parse, default_priority=exchange.priority)
        job = await parse_body(exchange, parse, timeout_s=timeout_s)
        origin = exchange.origin(ROUTE)
        if job.request.stream:
            perform = partial(self._stream, job, origin)
            await self._keeper.stream(exchange, perform, resumable=job.request.resumable)
            return None
        async with self._open(job, origin) as replies:
            return await _collect(exchange, job.request, replies)

    def _parse(self, body: bytes, *, default_priority: int) -> CompletionJob:
        request = self._presets.fill(parse_completion_request(body))
        temperature = self._settings.models.default_temperature
        generates = to_generates(
            request, default_temperature=temperature, default_priority=default_priority
        )
        return CompletionJob(request, generates)

    @asynccontextmanager
    async def _open(self, job: CompletionJob, origin: Origin) -> AsyncIterator[list[Reply]]:
        """One reply per prompt."""
        model_name = job.request.model or ""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    self._dispatch.open(generate, model_name=model_name, origin=origin)
                )
                for generate in job.generates
            ]

    async def _stream(
        self, job: CompletionJob, origin: Origin, start: StartStream, *, heartbeat_s: float
    ) -> None:
        options = job.request.stream_options
        async with self._open(job, origin) as replies:
            first = replies[0]
            head = reply_head(completion_id(origin.request_id, prefix="cmpl"), first.model_id)
            include_usage = options is not None and bool(options.include_usage)
            spelled = CompletionStreamEncoder(head, include_usage=include_usage)
            choices = [choice for reply in replies for choice in reply.choices]
            await stream_answer(
                start,
                Reply(
                    first.model_id,
                    choices,
                    first.started,
                    tell=first.tell,
                    prompts=[reply.started for reply in replies],
                ),
                EchoingEncoder(spelled, replies, has_echo=bool(job.request.echo)),
                make_parser=PlainParser,
                heartbeat_s=heartbeat_s,
            )


class EchoingEncoder:
    """A completion's stream that repeats each prompt before its choices, if asked to.

    The prompt's log-probabilities come with the first text, so that is when it is repeated. Token
    counts are of all prompts together.

    Args:
        inner: Spells the stream.
        replies: One per prompt.
        has_echo: Whether prompts are repeated.
    """

    def __init__(
        self, inner: CompletionStreamEncoder, replies: Sequence[Reply], *, has_echo: bool
    ) -> None:
        self._inner = inner
        self._replies = replies
        self._owners = [reply for reply in replies for _ in reply.choices]
        self._unechoed = set(range(len(self._owners))) if has_echo else set()
        self.error = inner.error
        self.opening = inner.opening
        self.heartbeat = inner.heartbeat

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        """New text of one choice."""
        return self._echo(index) + self._inner.parts(index, parts, logprobs)

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        """The end of one choice."""
        return self._echo(index) + self._inner.finish_choice(index, reason)

    def finish(self, _usage: Usage) -> bytes:
        """The end of all of them."""
        return self._inner.finish(usage_of(self._replies))

    def _echo(self, index: int) -> bytes:
        if index not in self._unechoed:
            return b""
        self._unechoed.discard(index)
        return self._inner.echo(index, prompt_echo(self._owners[index]))


def prompt_echo(reply: Reply) -> Echo:
    """A prompt as it is repeated; its log-probabilities come with the first choice alone."""
    return Echo(reply.started.prompt_text or "", reply.choices[0].prompt_logprobs)


def usage_of(replies: Sequence[Reply]) -> Usage:
    """Token counts of several prompts."""
    return sum_usage(merge_usage(reply.usages) for reply in replies)


async def _collect(
    exchange: Exchange, request: CompletionRequest, replies: Sequence[Reply]
) -> Answer:
    shown: list[WholeText] = []
    for reply in replies:
        collected = await collect_answer(reply, make_parser=PlainParser)
        echo = prompt_echo(reply) if request.echo else None
        choices = [_whole_text(choice, echo) for choice in collected]
        shown += choose_best(choices, choice_count(request)) if request.best_of else choices
    head = reply_head(completion_id(exchange.request_id, prefix="cmpl"), replies[0].model_id)
    is_scored = request.logprobs is not None
    body = encode_text_completion(head, shown, usage_of(replies), shows_logprobs=is_scored)
    cache = encode_cache_header([reply.started for reply in replies])
    return Answer(body, headers=(*JSON_HEADERS, *cache))


def _whole_text(choice: Collected, echo: Echo | None) -> WholeText:
    text = "".join(part.text for part in choice.parts if isinstance(part, TextPart))
    return WholeText(text, choice.logprobs, choice.reason, echo)
