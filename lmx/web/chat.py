"""``POST /v1/chat/completions`` as a raw ASGI handler."""

import time

import trio

from lmx import __version__
from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch, Reply, reply_error
from lmx.errors import LmxError
from lmx.protocol.messages import Generate
from lmx.schema.chat_reply import (
    ChatStreamEncoder,
    ReplyHead,
    completion_id,
    encode_completion,
)
from lmx.schema.chat_request import ChatRequest, parse_chat_request, to_generate
from lmx.text.parts import OutputParser
from lmx.web.exchange import Answer, Exchange
from lmx.web.streaming import TokenStream

# Above this, parsing takes long enough to be felt on the event loop and goes to a thread.
PARSE_IN_THREAD_BYTES = 64 * 1024
SYSTEM_FINGERPRINT = f"lmx-{__version__}"


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
        body = await exchange.read_body(timeout_s=self._settings.server.body_timeout_s)
        if len(body) > PARSE_IN_THREAD_BYTES:
            request, generate = await trio.to_thread.run_sync(self._parse, body)
        else:
            request, generate = self._parse(body)
        del body
        async with self._dispatch.open(generate, model_name=request.model or "") as reply:
            head = ReplyHead(
                id=completion_id(exchange.request_id),
                created=int(time.time()),
                model=reply.model_id,
                system_fingerprint=SYSTEM_FINGERPRINT,
            )
            if request.stream:
                await self._stream(exchange, request, reply=reply, head=head)
                return None
            return await _fold(reply, head)

    def _parse(self, body: bytes) -> tuple[ChatRequest, Generate]:
        request = parse_chat_request(body)
        models = self._settings.models
        generate = to_generate(
            request,
            default_max_tokens=models.default_max_tokens,
            default_temperature=models.default_temperature,
        )
        return request, generate

    async def _stream(
        self, exchange: Exchange, request: ChatRequest, *, reply: Reply, head: ReplyHead
    ) -> None:
        options = request.stream_options
        include_usage = options is not None and bool(options.include_usage)
        encoder = ChatStreamEncoder(head, include_usage=include_usage)
        sink = await exchange.start_stream(encoder.first())
        heartbeat_s = self._settings.server.heartbeat_s
        await TokenStream(reply.stream, encoder, sink, heartbeat_s=heartbeat_s).run()


async def _fold(reply: Reply, head: ReplyHead) -> Answer:
    """Collect the same parts that a stream would have sent."""
    stream, parser = reply.stream, OutputParser()
    parts = parser.feed(stream.take_text())
    while not stream.is_over:
        await stream.wait_change()
        parts += parser.feed(stream.take_text())
    error, end = reply_error(stream), stream.end
    if error is not None or end is None:
        raise error or LmxError("the generation failed")
    return Answer(encode_completion(head, parts, reason=end.reason, usage=end.usage))
