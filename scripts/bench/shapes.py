"""Sizes of the Llamas with random weights that benchmarks run; speed depends on nothing else.

Knows no file format.
"""

from dataclasses import dataclass

CONTEXT_TOKENS = 32_768


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; `feed_forward` is the width between its projections."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int


SHAPES = {
    # Llama 3.2 1B and Llama 3.1 8B.
    "1b": Shape(2048, 16, 32, 8, 8192),
    "8b": Shape(4096, 32, 32, 8, 14336),
    # A long prompt takes a minute on two cores.
    "small": Shape(512, 4, 8, 4, 1536),
    # Loads at once.
    "tiny": Shape(64, 2, 4, 2, 128),
}
