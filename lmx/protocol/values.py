"""Small values that ride inside messages. They know nothing about HTTP or engines.

All are frozen msgspec Structs encoded as arrays, so a frame carries no field names.
"""

from typing import Literal

from msgspec import Struct

# What a model is for: text, vectors of texts, or scores of a document for a query.
Purpose = Literal["generation", "embedding", "reranking"]
FinishReason = Literal["stop", "length", "cancelled", "error"]


class Sampling(Struct, frozen=True, array_like=True):
    """How one sequence chooses its tokens.

    Order of the steps, as in vLLM: bias and penalties on the model's logits, then temperature,
    then `top_k`, `top_p` and `min_p` on what is left.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: Nucleus mass in (0, 1]; 1 keeps every token.
        seed: Fixes the random draws, so that the same request gives the same tokens alone and
            among neighbours. `None` means a fresh seed.
        top_k: Keep only so many of the most likely tokens; 0 keeps every token.
        min_p: Keep only tokens at least this likely relative to the most likely one, in [0, 1].
        repetition_penalty: Divides positive and multiplies negative logits of every token that
            stands in the prompt or the answer; 1 changes nothing.
        presence_penalty: Subtracted once from every token that stands in the answer.
        frequency_penalty: Subtracted for each time a token stands in the answer.
        logit_bias: Added to the logits of these token ids.
        min_tokens: End tokens cannot be sampled before so many tokens.
        ignore_eos: End tokens do not end the answer.
        top_logprobs: How many alternatives to report beside each token's log-probability, 0 to
            20; `None` reports nothing.
        speculate: Drafts may be checked; it changes how fast tokens come and not which.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    speculate: bool = True


GrammarKind = Literal["json_schema", "regex", "lark"]


class Grammar(Struct, frozen=True, array_like=True):
    """What an answer must match.

    Attributes:
        kind: ``json_schema`` (`source` is the schema as JSON), ``regex`` or ``lark``.
        source: The grammar's text.
        param: The request field it came from, for the error when it cannot be compiled.
    """

    kind: GrammarKind
    source: str
    param: str


class TokenLogprob(Struct, frozen=True, array_like=True):
    """A token's text and log-probability, with the most likely alternatives.

    Attributes:
        token: Its text; what is no UTF-8 by itself shows as U+FFFD.
        token_bytes: Its bytes.
        logprob: Log-softmax of the model's own distribution; `None` for a prompt's first token.
        top: Alternatives, best first, without alternatives of their own.
    """

    token: str
    token_bytes: bytes
    logprob: float | None
    top: list["TokenLogprob"] = []


class Usage(Struct, frozen=True, array_like=True):
    """Real token counts of one request.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        completion_tokens: Tokens sampled, the end token included.
        cached_tokens: Leading prompt tokens whose prefill was skipped.
        drafted_tokens: Drafted tokens that were checked.
        accepted_tokens: Completion tokens that a draft foretold.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


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


class Kept(Struct, frozen=True, array_like=True):
    """What is kept of prompts and answers for later ones.

    Attributes:
        size_bytes: All of it, which counts as cached memory.
        entry_count: Pieces.
        evicted_count: Pieces dropped so far for want of room or under pressure.
    """

    size_bytes: int = 0
    entry_count: int = 0
    evicted_count: int = 0


class Memory(Struct, frozen=True, array_like=True):
    """Bytes as the device library counts them, and what is kept of prompts."""

    active_bytes: int = 0
    cached_bytes: int = 0
    peak_bytes: int = 0
    kept: Kept = Kept()


class Pacing(Struct, frozen=True, array_like=True):
    """How prompts were computed lately.

    Attributes:
        piece_tokens: Of prompts, in the last step that computed any.
        gap_target_s: The gap that running streams were to have at most; `None` without streams, or
            while it is not known.
    """

    piece_tokens: int
    gap_target_s: float | None


class ModelInfo(Struct, frozen=True, array_like=True):
    """What the daemon knows about a loaded model.

    Attributes:
        context_tokens: Most tokens of prompt and answer together.
        max_sequences: Sequences the engine decodes in one batch.
        weight_bytes: Size of the parameters in memory.
        kv_bytes_per_token: KV cache growth per token and sequence.
        device: Where the engine computes, such as ``cpu`` or ``gpu``.
        engine: Engine name, such as ``mlx`` or ``fake``.
        purpose: What it answers.
        width: Numbers in a vector of an embedding model; 0 for others.
    """

    context_tokens: int
    max_sequences: int
    weight_bytes: int = 0
    kv_bytes_per_token: int = 0
    device: str = "cpu"
    engine: str = "fake"
    purpose: Purpose = "generation"
    width: int = 0


class PrefixDisk(Struct, frozen=True, array_like=True):
    """Where prompts that were computed are kept on disk.

    Attributes:
        path: Of the directory that all workers share.
        cap_bytes: What all its files may take up together.
    """

    path: str
    cap_bytes: int


class GgufOptions(Struct, frozen=True, array_like=True):
    """How the engine `llama` loads a GGUF file.

    Attributes:
        gpu_layers: Layers computed on the GPU; -1 for all of them.
        threads: Threads of the CPU; `None` for the physical cores this process may use.
        use_mmap: Map the file's pages instead of copying the weights into memory.
        kv_cache_bytes: Memory for the KV cache of all sequences; `None` for the engine's default.
    """

    gpu_layers: int = -1
    threads: int | None = None
    use_mmap: bool = True
    kv_cache_bytes: int | None = None
