"""``x-lmx-cache``: how much of a prompt was there already when its answer began, and why not more.

It knows what the worker foresaw, which is before prefill; what was really skipped is in the usage.
"""

from collections.abc import Sequence

from lmx.protocol.messages import Started
from lmx.schema.problems import Headers

NAME = b"x-lmx-cache"
# Everything that is known of the prompt is used: the rest is new, or there is none.
WHOLE = frozenset({"full", "new"})


def encode_cache_header(started: Sequence[Started]) -> Headers:
    """The header for an answer to one or more prompts; none if nothing is said about them.

    Args:
        started: One per prompt.
    """
    told = [one for one in started if one.cache_reason]
    if not told:
        return ()
    cached = sum(one.cached_tokens for one in told)
    prompt = sum(one.prompt_tokens for one in told)
    missing = [one.cache_reason for one in told if one.cache_reason not in WHOLE]
    verdict = "miss" if not cached else "part" if missing else "hit"
    value = f"{verdict}; cached={cached}; prompt={prompt}"
    if not cached or missing:
        value += f"; miss={(missing or [told[0].cache_reason])[0]}"
    return ((NAME, value.encode()),)
