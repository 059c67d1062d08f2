"""What the prefix store keeps of llama.cpp's sequences: state as bytes, in blocks of tokens. Pure.

llama.cpp's bytes cannot be cut, so a segment is several blocks, and one that is split inside a
block gives both halves that block: its bytes count twice from then on. Models with recurrent state
have it in snapshots; their segments hold nothing.
"""

from typing import NamedTuple, Self

from lmx.engines.llama.transfer import StateBytes
from lmx.engines.prefix.store import PrefixStore
from lmx.engines.prefix.tier import DiskTier, Recall

# Long enough that the library's cost per call does not show, short enough to be split.
BLOCK_TOKENS = 128


class Block(NamedTuple):
    """The state of neighbouring tokens.

    Attributes:
        start: Position of the first.
        end: One past the last.
        data: As llama.cpp gave it.
    """

    start: int
    end: int
    data: StateBytes


class StateSegment:
    """The state of the tokens `start` to `end`.

    Args:
        start: Position of the first token.
        end: One past the last.
        blocks: In order; together they hold these tokens, and perhaps some around them.
    """

    __slots__ = ("blocks", "end", "start")

    def __init__(self, start: int, end: int, blocks: tuple[Block, ...] = ()) -> None:
        self.start = start
        self.end = end
        self.blocks = blocks

    @property
    def size_bytes(self) -> int:
        """Of all blocks."""
        return sum(block.data.nbytes for block in self.blocks)

    def split(self, tokens: int) -> tuple[Self, Self]:
        """What belongs to the first so many tokens, and the rest."""
        at = self.start + tokens
        head = tuple(block for block in self.blocks if block.start < at)
        tail = tuple(block for block in self.blocks if block.end > at)
        kind = type(self)
        return kind(self.start, at, head), kind(at, self.end, tail)


class StateSnapshot:
    """All state after exactly so many tokens.

    Args:
        data: As llama.cpp gave it.
    """

    __slots__ = ("data",)

    def __init__(self, data: StateBytes) -> None:
        self.data = data

    @property
    def size_bytes(self) -> int:
        """Of the state."""
        return self.data.nbytes


LlamaStore = PrefixStore[StateSegment, StateSnapshot]
LlamaTier = DiskTier[StateSegment, StateSnapshot]
LlamaRecall = Recall[StateSegment, StateSnapshot]


class Tiers(NamedTuple):
    """Where what leaves the cache goes.

    Attributes:
        store: In memory.
        disk: Below it, beyond the model's life; `None` if nothing is kept there.
    """

    store: LlamaStore
    disk: LlamaTier | None = None


NOTHING_KEPT = Tiers(LlamaStore(0))


def choose_block_tokens(window_tokens: int) -> int:
    """How long blocks may be for any part of one to be of use.

    llama.cpp leaves out of a sequence's bytes what no token after it will see: a block as long as
    a sliding window, or longer, would lack its first tokens in those layers.
    Source: `llama_kv_cache::state_write` of the llama.cpp that llama-cpp-python 0.3.36 carries.

    Args:
        window_tokens: How far layers with a sliding window look back; 0 if there are none.
    """
    return min(BLOCK_TOKENS, max(1, window_tokens - 1)) if window_tokens else BLOCK_TOKENS


def block_ends(start: int, end: int, block_tokens: int) -> list[int]:
    """Where the blocks of a range end: at multiples of their length, and at its end."""
    first = start // block_tokens * block_tokens + block_tokens
    return [*range(first, end, block_tokens), end]
