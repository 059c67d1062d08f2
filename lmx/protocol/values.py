"""Small values that ride inside messages. They know nothing about HTTP or engines.

All are frozen msgspec Structs encoded as arrays, so a frame carries no field names.
"""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Sampling(Struct, frozen=True, array_like=True):
    """How one sequence chooses its tokens.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: Nucleus mass in (0, 1]; 1 keeps every token.
        seed: Fixes the random draws, so that the same request gives the same tokens alone and
            among neighbours. `None` means a fresh seed.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


class Usage(Struct, frozen=True, array_like=True):
    """Real token counts of one request.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        completion_tokens: Tokens sampled, the end token included.
        cached_tokens: Leading prompt tokens whose prefill was skipped.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Timings(Struct, frozen=True, array_like=True):
    """Where a request's time went inside the worker, in seconds.

    Attributes:
        queue_s: From tokenised to having a slot.
        prefill_s: From having a slot to the first token.
        decode_s: From the first token to the last.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Memory(Struct, frozen=True, array_like=True):
    """Bytes as the device library counts them."""

    active_bytes: int = 0
    cached_bytes: int = 0
    peak_bytes: int = 0


class ModelInfo(Struct, frozen=True, array_like=True):
    """What the daemon knows about a loaded model.

    Attributes:
        context_tokens: Most tokens of prompt and answer together.
        max_sequences: Sequences the engine decodes in one batch.
        weight_bytes: Size of the parameters in memory.
        kv_bytes_per_token: KV cache growth per token and sequence.
        device: Where the engine computes, such as ``cpu`` or ``gpu``.
        engine: Engine name, such as ``mlx`` or ``fake``.
    """

    context_tokens: int
    max_sequences: int
    weight_bytes: int = 0
    kv_bytes_per_token: int = 0
    device: str = "cpu"
    engine: str = "fake"
