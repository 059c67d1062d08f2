"""Requests and answers of the routes that show a model's own text form of things.

``/tokenize``, ``/detokenize`` and ``/apply-template`` generate nothing; they are LMX's own, in
the shape of vLLM's routes of these names.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt, TextPrompt
from lmx.schema.chat_request import check_template_kwargs
from lmx.schema.fields import TokenId, refuse_unknown
from lmx.schema.json_body import decode_body
from lmx.schema.messages import Message, to_turn
from lmx.schema.tools import FunctionDefinition, Tool, plan_tools, to_template

R = TypeVar("R", bound=Struct)
Messages = Annotated[list[Message], Meta(min_length=1)]


class TokenizeRequest(Struct, kw_only=True):
    """Either a text or a conversation, of which the template makes the text.

    Special tokens, such as the one that begins a text, are added where the model's tokenizer
    does that; `add_special_tokens` false leaves them out. A template writes its own.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None


class TokenizeReply(Struct, frozen=True):
    """Token ids, how many there are, and how many the model takes at most."""

    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizeRequest(Struct, kw_only=True):
    """Token ids to be text again."""

    model: str | None = None
    tokens: list[TokenId]


class DetokenizeReply(Struct, frozen=True):
    """The text of the tokens."""

    prompt: str


class ShownTool(Struct):
    """A tool to be shown to the model; of skills only a chat knows."""

    type: Literal["function"]
    function: FunctionDefinition


class ApplyTemplateRequest(Struct, kw_only=True):
    """A conversation to be shown as the model gets it."""

    model: str | None = None
    messages: Messages
    tools: list[ShownTool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ApplyTemplateReply(Struct, frozen=True):
    """The prompt's text."""

    prompt: str


def parse_tokenize_request(body: bytes) -> TokenizeRequest:
    """Read a body of ``/tokenize``.

    Raises:
        InvalidRequest: Malformed, or not exactly one of ``prompt`` and ``messages`` is there.
    """
    request = _parse(body, TokenizeRequest)
    if (request.prompt is None) is (request.messages is None):
        raise InvalidRequest("one of 'prompt' and 'messages' is needed", param="prompt")
    if request.messages is not None and request.add_special_tokens is not None:
        raise InvalidRequest(
            "'add_special_tokens' has no effect on 'messages'", param="add_special_tokens"
        )
    return request


def parse_detokenize_request(body: bytes) -> DetokenizeRequest:
    """Read a body of ``/detokenize``.

    Raises:
        InvalidRequest: Malformed; `param` names the field.
    """
    return _parse(body, DetokenizeRequest)


def parse_apply_template_request(body: bytes) -> ApplyTemplateRequest:
    """Read a body of ``/apply-template``.

    Raises:
        InvalidRequest: Malformed; `param` names the field.
    """
    return _parse(body, ApplyTemplateRequest)


def tokenize_prompt(request: TokenizeRequest) -> ChatPrompt | TextPrompt:
    """What is to be tokenised.

    Raises:
        UnreadableContent: A message holds something that no text model can read.
    """
    if request.messages is None:
        return TextPrompt(
            request.prompt or "", add_beginning=request.add_special_tokens is not False
        )
    return ChatPrompt(_turns(request.messages))


def template_prompt(request: ApplyTemplateRequest) -> ChatPrompt:
    """What is to be rendered.

    Raises:
        InvalidRequest: Two tools share a name, or a variable is not one to set.
        UnreadableContent: A message holds something that no text model can read.
    """
    tools = [Tool(tool.function) for tool in request.tools or ()]
    plan = plan_tools(tools, None, is_parallel=True)
    return ChatPrompt(
        messages=_turns(request.messages),
        tools=[to_template(tool) for tool in plan.tools],
        template_kwargs=check_template_kwargs(request.chat_template_kwargs),
    )


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    return [to_turn(message, at=index) for index, message in enumerate(messages)]


def _parse(body: bytes, kind: type[R]) -> R:
    request = decode_body(body, msgspec.json.Decoder(kind))
    refuse_unknown(body, request.__struct_fields__)
    return request
