"""How large a prefill pass is, and what shape it gets. Pure; knows no tokens and no device.

On CUDA attention is planned anew for every shape it has not seen, which takes 40 to 100 ms, as
long as the pass itself of a prompt of several thousand tokens. So passes come in few shapes there:
lengths and numbers of rows are rounded up, and what they are filled up with costs next to nothing.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Of a pass's tokens, at most such a part is padding beyond the grain.
GRAINS_PER_OCTAVE = 8
# What chats begin with, one at a time and several at once.
USUAL_TOKENS, USUAL_TOKENS_TOGETHER = 512, 128


class PrefillLimits(NamedTuple):
    """What one prefill pass may hold.

    Attributes:
        chunk_tokens: Most tokens of a pass, padding included.
        max_rows: Most prompts in a pass.
        pass_tokens: So many tokens more in a pass cost as much as another pass.
        grain_tokens: Lengths are rounded to multiples of it, and numbers of rows to powers of two;
            1 where shapes cost nothing.
    """

    chunk_tokens: int
    max_rows: int
    pass_tokens: int = 32
    grain_tokens: int = 1

    @property
    def is_grainy(self) -> bool:
        """Passes come in few shapes."""
        return self.grain_tokens > 1

    def round_up(self, tokens: int) -> int:
        """The length that a pass over so many tokens gets."""
        grain = self._grain(tokens)
        return -(-tokens // grain) * grain

    def round_down(self, tokens: int) -> int:
        """What of so many tokens makes a pass that needs no padding; all of less than the grain."""
        grain = self._grain(tokens)
        return tokens - tokens % grain or tokens

    def row_count(self, count: int, length: int) -> tuple[int, int]:
        """How many of so many prompts go into a pass, and how many rows it gets.

        Args:
            count: Prompts, at most `max_rows`.
            length: What each row is padded to.
        """
        if not self.is_grainy:
            return count, count
        rows = 1 << (count - 1).bit_length()
        if rows <= self.max_rows and rows * length <= self.chunk_tokens:
            return count, rows
        fewer = 1 << (count.bit_length() - 1)
        return fewer, fewer

    def usual_shapes(self) -> Iterator[tuple[int, int]]:
        """Rows and tokens of the passes that short prompts need, alone and together."""
        tokens = 0
        while tokens < USUAL_TOKENS:
            tokens = self.round_up(tokens + 1)
            most = self.max_rows if tokens <= USUAL_TOKENS_TOGETHER else 1
            rows = 1
            while rows <= min(most, self.chunk_tokens // tokens):
                yield rows, tokens
                rows *= 2

    def _grain(self, tokens: int) -> int:
        octave = 1 << max(0, tokens.bit_length() - 1)
        return max(self.grain_tokens, octave // GRAINS_PER_OCTAVE) if self.is_grainy else 1


def plan_group(lengths: Sequence[int], limits: PrefillLimits) -> int:
    """How many prompts from the head of the queue go into the next pass.

    Args:
        lengths: Tokens to prefill of each waiting prompt, in queue order, at least one entry.
        limits: Bounds of the pass.

    Returns:
        At least 1. Padding never exceeds the real tokens, and count times longest stays within
        the chunk.
    """
    longest = real = 0
    for count, length in enumerate(lengths):
        longest = max(longest, length)
        real += length
        padded = (count + 1) * longest
        is_over = padded > limits.chunk_tokens or padded > 2 * real
        if count and (is_over or count == limits.max_rows):
            return count
    return len(lengths)
