"""``/tokenize``, ``/detokenize`` and ``/apply-template``: a model's own view of a text."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.loader import Loader
from lmx.errors import InvalidRequest
from lmx.protocol.messages import TokenPrompt
from lmx.schema.tokens import (
    ApplyTemplateReply,
    DetokenizeReply,
    TokenizeReply,
    parse_apply_template_request,
    parse_detokenize_request,
    parse_tokenize_request,
    template_prompt,
    tokenize_prompt,
)
from lmx.web.exchange import Answer, Exchange, parse_body

T = TypeVar("T")


class TokenRoutes:
    """The three routes over one dispatch.

    Args:
        dispatch: Asks the model.
        loader: Knows how much the model takes.
        settings: Limits.
    """

    def __init__(self, dispatch: Dispatch, loader: Loader, settings: Settings) -> None:
        self._dispatch = dispatch
        self._loader = loader
        self._settings = settings

    async def tokenize(self, exchange: Exchange) -> Answer:
        """``POST /tokenize``."""
        request = await self._parse(exchange, parse_tokenize_request)
        model_id, inspected = await self._dispatch.inspect(
            tokenize_prompt(request), model_name=request.model or ""
        )
        ready = self._loader.models[model_id].ready
        limit = 0 if ready is None else ready.loaded.info.context_tokens
        ids = inspected.token_ids
        return _answer(TokenizeReply(count=len(ids), max_model_len=limit, tokens=ids))

    async def detokenize(self, exchange: Exchange) -> Answer:
        """``POST /detokenize``."""
        request = await self._parse(exchange, parse_detokenize_request)
        try:
            _, inspected = await self._dispatch.inspect(
                TokenPrompt(request.tokens), model_name=request.model or ""
            )
        except InvalidRequest as error:
            # The worker knows a prompt, and not what this route calls it.
            raise InvalidRequest(error.message, param="tokens") from error
        return _answer(DetokenizeReply(prompt=inspected.text))

    async def apply_template(self, exchange: Exchange) -> Answer:
        """``POST /apply-template``."""
        request = await self._parse(exchange, parse_apply_template_request)
        _, inspected = await self._dispatch.inspect(
            template_prompt(request), model_name=request.model or ""
        )
        return _answer(ApplyTemplateReply(prompt=inspected.text))

    async def _parse(self, exchange: Exchange, parse: Callable[[bytes], T]) -> T:
        timeout_s = self._settings.server.body_timeout_s
        return await parse_body(exchange, parse, timeout_s=timeout_s)


def _answer(reply: Struct) -> Answer:
    return Answer(msgspec.json.encode(reply))
