"""Prompts from templates. One may loop for ever, so it is rendered in a contained process."""

from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, arguments: dict[str, Any]) -> str:
    """Fill a template.

    Raises:
        ValueError: It uses what the arguments do not have, or what templates may not.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False
    )
    try:
        return environment.from_string(template).render(arguments)
    except TemplateError as error:
        raise ValueError(f"the template cannot be rendered: {error.message}") from None
