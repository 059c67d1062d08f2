"""Chat templates: messages to prompt text, as Hugging Face's `apply_chat_template` renders them.

Knows neither ids nor vocabularies. Templates come with models from anywhere, so they run in
Jinja's immutable sandbox; whatever goes wrong in one is the conversation's fault, not ours.
Source: transformers 5.23, utils/chat_template_utils.py.
"""

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmx.errors import CorruptModel, InvalidRequest
from lmx.protocol.messages import ChatPrompt

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{{ bos_token if add_bos_token }}"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] or '' }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
NO_TEMPLATE = "The model has no chat template; prompts are {} instead, so answers may ramble."
# What Python raises under a template's operators, beside Jinja's own errors.
TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class ChatTemplate:
    """One compiled template with the values it may refer to.

    Args:
        source: Jinja text.
        variables: Special tokens by name, such as ``bos_token``.

    Raises:
        CorruptModel: The source is no template.
    """

    def __init__(self, source: str, variables: dict[str, Any]) -> None:
        self._variables = variables
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise CorruptModel(f"the chat template cannot be read: {error}") from error

    def render(self, prompt: ChatPrompt) -> str:
        """The prompt's text, ready for the assistant's turn.

        Raises:
            InvalidRequest: The template refuses this conversation; the message is its own.
        """
        try:
            return self._template.render(
                {
                    **self._variables,
                    **prompt.template_kwargs,
                    "messages": prompt.messages,
                    "tools": prompt.tools or None,
                    "add_generation_prompt": True,
                }
            )
        except TEMPLATE_FAULTS as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error


def fallback_template(*, is_chatml: bool) -> tuple[str, str]:
    """What serves a model without a template, and a remark for the log.

    Args:
        is_chatml: The vocabulary has ChatML's markers.
    """
    if is_chatml:
        return CHATML, NO_TEMPLATE.format("ChatML")
    return PLAIN, NO_TEMPLATE.format("lines of `role: content`")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it only passes it on."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own spelling

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_pass_on"), [], [], body).set_lineno(line)

    def _pass_on(self, caller: Any) -> str:
        return str(caller())


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates may pass it by position
    indent: int | None = None,
    *,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models have not seen in training."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
