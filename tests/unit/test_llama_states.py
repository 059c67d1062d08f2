"""Segments of llama.cpp's state: blocks, where they end, and splitting them."""

import numpy as np
import pytest

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.states import (  # noqa: E402
    BLOCK_TOKENS,
    Block,
    StateSegment,
    block_ends,
    choose_block_tokens,
)


def segment(start: int, end: int, block_tokens: int = 10) -> StateSegment:
    """With two bytes per token."""
    blocks, at = [], start
    for stop in block_ends(start, end, block_tokens):
        blocks.append(Block(at, stop, np.zeros(2 * (stop - at), dtype=np.uint8)))
        at = stop
    return StateSegment(start, end, tuple(blocks))


def spans(found: StateSegment) -> list[tuple[int, int]]:
    """Of its blocks."""
    return [(block.start, block.end) for block in found.blocks]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 10, [10]),
        (0, 25, [10, 20, 25]),
        (7, 9, [9]),
        (7, 31, [10, 20, 30, 31]),
        (10, 20, [20]),
    ],
)
def test_blocks_end_at_multiples(start: int, end: int, expected: list[int]) -> None:
    """So that conversations which part later have their blocks in common places."""
    assert expected == block_ends(start, end, 10)


def test_a_split_between_blocks_shares_none() -> None:
    """The bytes of both halves are those of the whole."""
    head, tail = segment(5, 30).split(15)
    assert [(5, 10), (10, 20)] == spans(head)
    assert [(20, 30)] == spans(tail)
    assert (30, 20) == (head.size_bytes, tail.size_bytes)
    assert (5, 20, 20, 30) == (head.start, head.end, tail.start, tail.end)


def test_a_split_inside_a_block_counts_it_twice() -> None:
    """Both halves need it, and each says so."""
    head, tail = segment(0, 30).split(14)
    assert [(0, 10), (10, 20)] == spans(head)
    assert [(10, 20), (20, 30)] == spans(tail)
    assert 60 + 20 == head.size_bytes + tail.size_bytes
    again, rest = tail.split(2)
    assert [(10, 20)] == spans(again)
    assert (16, [(10, 20), (20, 30)]) == (rest.start, spans(rest))


@pytest.mark.parametrize(
    ("window_tokens", "expected"),
    [(0, BLOCK_TOKENS), (4096, BLOCK_TOKENS), (64, 63), (1, 1)],
)
def test_no_block_is_as_long_as_a_window(window_tokens: int, expected: int) -> None:
    """Its first tokens would be missing in the layers that have the window."""
    assert expected == choose_block_tokens(window_tokens)
