"""A conversation within a limit of the client's own: the oldest turns are left out until it fits.

Whole exchanges go, so that what is left begins with a user's turn and no tool's result loses its
call. What the system says stays, and so does the last user's turn with all that follows.
"""

from typing import Any

import msgspec

from lmx.engines.base import Tokenizer
from lmx.protocol.messages import ChatPrompt
from lmx.worker.dialect import ModelDialect
from lmx.worker.prompt import Rendered, render_prompt


def render_within(
    prompt: ChatPrompt, tokenizer: Tokenizer, own: ModelDialect, *, limit_tokens: int
) -> Rendered:
    """Render and tokenise as much of a conversation as fits.

    Args:
        prompt: The conversation.
        tokenizer: The model's.
        own: The model's dialect.
        limit_tokens: What the prompt should have at most; the last turns alone may have more.

    Raises:
        InvalidRequest: The template refuses the conversation, or nothing is left of it.
    """

    def render(start: int) -> Rendered:
        messages = [m for at, m in enumerate(prompt.messages) if at >= start or _is_system(m)]
        shortened = msgspec.structs.replace(prompt, messages=messages)
        return render_prompt(shortened, tokenizer, own)

    whole = render_prompt(prompt, tokenizer, own)
    starts = [at for at, message in enumerate(prompt.messages) if message["role"] == "user"]
    if len(whole.token_ids) <= limit_tokens or not starts:
        return whole
    lowest, highest = 0, len(starts) - 1
    best = render(starts[highest])
    while lowest < highest:
        middle = (lowest + highest) // 2
        tried = render(starts[middle])
        if len(tried.token_ids) <= limit_tokens:
            best, highest = tried, middle
        else:
            lowest = middle + 1
    return best


def _is_system(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "system")
