"""What answers of all routes share: ids, token counts and constant frames."""

import msgspec
import pytest

from lmx.protocol.values import Usage
from lmx.schema.reply import (
    SSE_COMMENT,
    SSE_DONE,
    completion_id,
    encode_usage,
    merge_usage,
    sum_usage,
)


def test_ids_are_recognisable() -> None:
    """The answer's id is the request's with another prefix."""
    assert "chatcmpl-abc" == completion_id("req_abc")
    assert "cmpl-abc" == completion_id("req_abc", prefix="cmpl")


def test_usage_adds_up() -> None:
    """The total is prompt plus completion; cached tokens are part of the prompt."""
    expected = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert expected == msgspec.to_builtins(encode_usage(Usage(7, 5, 3)))


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([], Usage(0, 0)),
        ([Usage(7, 5, 3)], Usage(7, 5, 3)),
        ([Usage(7, 5, 0), Usage(7, 2, 7)], Usage(7, 7, 0)),
        ([Usage(7, 5, 0, 8, 3), Usage(7, 2, 7, 4, 1)], Usage(7, 7, 0, 12, 4)),
    ],
)
def test_choices_share_their_prompt(usages: list[Usage], expected: Usage) -> None:
    """A prompt counts once for all its choices, and cached is what the first one found."""
    assert expected == merge_usage(usages)


@pytest.mark.parametrize(
    ("usages", "expected"),
    [([], Usage(0, 0)), ([Usage(7, 5, 3, 8, 2), Usage(1, 2, 1, 4, 4)], Usage(8, 7, 4, 12, 6))],
)
def test_prompts_add_up(usages: list[Usage], expected: Usage) -> None:
    """Counts of several prompts are summed."""
    assert expected == sum_usage(usages)


def test_constant_frames() -> None:
    """The end marker and the keep-alive comment are spelled as SSE wants them."""
    assert b"data: [DONE]\n\n" == SSE_DONE
    assert SSE_COMMENT.startswith(b":")
    assert SSE_COMMENT.endswith(b"\n\n")
