"""Where a conversation's prompt may come to part from others: around its first and its last turn.

It knows templates only by what they render. What stands before a message is what two renderings
have in common that differ in the message alone, so the message's own header belongs to it, which is
the same whatever the message says. Pure but for the tokenizer it is given.
"""

from typing import Any, NamedTuple

import msgspec

from lmx.engines.base import Tokenizer
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt

# Shorter prompts are computed faster than their boundaries are found.
LEAST_TOKENS = 256
# Of any three words of one letter, one begins and ends unlike a given text.
STAND_INS = ("0", "x", "#")


class Boundaries(NamedTuple):
    """Positions in tokens from a prompt's start.

    Attributes:
        ends: All that are known, ascending.
        turn_start: What the last user says begins there; 0 if that is not known.
    """

    ends: tuple[int, ...]
    turn_start: int


NOWHERE = Boundaries((), 0)


def find_boundaries(
    prompt: ChatPrompt, text: str, token_ids: list[int], *, tokenizer: Tokenizer
) -> Boundaries:
    """Positions in a rendered conversation.

    Before what the first user says end the system message and the tools. Before what the last one
    says ends what the next turn's prompt repeats, whatever a template leaves out of older answers;
    and behind it begins what leads to the answer.

    Args:
        prompt: The conversation as it was rendered.
        text: The rendering.
        token_ids: Its tokens.
        tokenizer: What rendered and tokenised it.
    """
    if len(token_ids) < LEAST_TOKENS:
        return NOWHERE
    users = [i for i, message in enumerate(prompt.messages) if message.get("role") == "user"]
    if not users:
        return NOWHERE
    first, _ = _ends_around(prompt, users[0], text=text, tokenizer=tokenizer)
    before, behind = _ends_around(prompt, users[-1], text=text, tokenizer=tokenizer)
    positions = [
        _token_position(text, end, token_ids, tokenizer=tokenizer)
        for end in (first, before, behind)
    ]
    return Boundaries(tuple(sorted({*positions} - {0, len(token_ids)})), positions[1])


def _ends_around(
    prompt: ChatPrompt, index: int, *, text: str, tokenizer: Tokenizer
) -> tuple[int, int]:
    """Where what depends on a message begins and ends, in characters; zeros if that is unknown."""
    said = str(prompt.messages[index].get("content") or "").strip()
    stand_in = next(word for word in STAND_INS if word not in {said[:1], said[-1:]})
    changed: list[dict[str, Any]] = list(prompt.messages)
    changed[index] = {**changed[index], "content": stand_in}
    try:
        other = tokenizer.render(msgspec.structs.replace(prompt, messages=changed))
    except InvalidRequest:
        return 0, 0
    return common_start(text, other), len(text) - common_start(text[::-1], other[::-1])


def common_start(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(first), len(second)) + 1  # so many are alike; so many are not
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _token_position(text: str, end: int, token_ids: list[int], *, tokenizer: Tokenizer) -> int:
    """How many tokens so many characters are; 0 if no token ends there."""
    if 2 * end > len(text):
        tail = tokenizer.encode(text[end:])
        at = len(token_ids) - len(tail)
        return at if at > 0 and token_ids[at:] == tail else 0
    head = tokenizer.encode(text[:end])
    return len(head) if token_ids[: len(head)] == head else 0
