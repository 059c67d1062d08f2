"""The header says in one line how much of a prompt was there, and why not more."""

import pytest

from lmx.protocol.messages import Started
from lmx.schema.prefix_header import encode_cache_header


def started(prompt: int, cached: int, reason: str) -> Started:
    """What a worker says."""
    return Started(1, prompt, cached_tokens=cached, cache_reason=reason)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([started(1100, 1024, "new")], b"hit; cached=1024; prompt=1100"),
        ([started(1100, 1099, "full")], b"hit; cached=1099; prompt=1100"),
        ([started(1100, 512, "diverged")], b"part; cached=512; prompt=1100; miss=diverged"),
        ([started(1100, 0, "no-entry")], b"miss; cached=0; prompt=1100; miss=no-entry"),
        ([started(9, 0, "full")], b"miss; cached=0; prompt=9; miss=full"),
        (
            [started(100, 99, "full"), started(50, 0, "evicted"), started(50, 0, "no-entry")],
            b"part; cached=99; prompt=200; miss=evicted",
        ),
    ],
)
def test_the_header(told: list[Started], expected: bytes) -> None:
    """Tokens of several prompts are added; the first reason that is one stands for them."""
    assert ((b"x-lmx-cache", expected),) == encode_cache_header(told)


def test_a_worker_that_says_nothing() -> None:
    """Then neither does the header."""
    assert () == encode_cache_header([started(5, 0, "")])
