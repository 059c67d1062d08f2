"""One token stream inside the MLX engine. Knows nothing about caches or devices."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class LiveSequence:
    """What the engine remembers about a sequence from `add` to its end.

    Attributes:
        sequence_id: The scheduler's number.
        token_ids: The prompt, never empty.
        max_tokens: Most tokens to sample.
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        seed: 64 bits that fix every draw of this sequence.
        launched: Tokens whose sampling was submitted to the device.
        delivered: Tokens that `step` has returned.
        is_live: False once finished or removed; its row leaves before the next launch.
    """

    sequence_id: int
    token_ids: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    launched: int = 0
    delivered: int = 0
    is_live: bool = True

    @property
    def wants_launch(self) -> bool:
        """Another token of this sequence is of use."""
        return self.is_live and self.launched < self.max_tokens
