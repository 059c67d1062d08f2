"""What may be chosen about a KV cache, and what a value in it takes then. Pure.

Knows the formats of both engines and no model.
"""

from typing import NamedTuple

# Blocks of 32 values in ggml: 8-bit values with a half for their scale, and halves.
Q8_0_BLOCK_BYTES, F16_BLOCK_BYTES = 34, 64
# MLX has a scale and a bias, in the model's float type, for so many values or for twice as many.
MLX_GROUP_VALUES = 32


class CacheChoice(NamedTuple):
    """What somebody wants of the KV cache.

    Attributes:
        total_bytes: What all sequences together may take, or `None` for the engine's default.
        bits: Of one value, 8, or `None` for the engine's float type.
    """

    total_bytes: int | None = None
    bits: int | None = None

    def gguf_bytes(self, half_bytes: int) -> int:
        """What llama.cpp takes for as many values as take so many bytes in halves."""
        if self.bits is None:
            return half_bytes
        return -(-half_bytes * Q8_0_BLOCK_BYTES // F16_BLOCK_BYTES)

    def mlx_value_bytes(self, float_bytes: int) -> float:
        """What MLX takes for one value, at most.

        Args:
            float_bytes: Of the model's float type.
        """
        if self.bits is None:
            return float_bytes
        return self.bits / 8 + 2 * float_bytes / MLX_GROUP_VALUES


NO_CHOICE = CacheChoice()
