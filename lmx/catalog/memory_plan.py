"""How much memory a model will take, from the facts of its files. Pure; an estimate.

A load reserves what is planned here, and what the worker measured replaces it afterwards. So a plan
should be close, and rather too large: one that is too small lets a load begin that does not fit.
The engines take the numbers that decide about memory from here, so that both sides agree.

People's rule of thumb, parameters times bits / 8 times 1.2, is a plan's `weights` with a fifth on
top for everything else; here that fifth is computed.
"""

from math import ceil, isqrt
from typing import Literal, NamedTuple

from msgspec import Struct

from lmx.catalog.gguf_header import GgufHeader
from lmx.catalog.kv_cache import NO_CHOICE, CacheChoice
from lmx.catalog.mlx_config import (
    ENCODERS,
    Config,
    architecture,
    count,
    dtype,
    kv_shape,
    language_part,
    own_context_tokens,
    quantisation,
    stored_bits,
)

Device = Literal["cpu", "gpu"]

# For models that do not say what context they were made for.
DEFAULT_CONTEXT_TOKENS = 4096

# llama.cpp's cache is made whole at load; this is what it may take when nobody says otherwise.
LLAMA_CACHE_BYTES = 4 << 30
LLAMA_USUAL_SEQUENCE_TOKENS = 1024
LLAMA_CELL_STEP = 256  # llama.cpp rounds up to this
# A pass is what a waiting token is held up by; prefill is as fast in passes of 512 as in longer.
LLAMA_BATCH_TOKENS = 512
# What reading one row may take when nobody says otherwise: work space where a row must fit one
# pass, which only rows that long use up, and a cache, which is made whole at load.
LLAMA_PASS_BYTES = 2 << 30
LLAMA_ROW_CACHE_BYTES = 1 << 30

# Most tokens of a prefill pass. One is what a cancelled request or a waiting token can be held up
# by. mlx-lm's 2048 on a GPU; on a CPU of 100 to 2,000 tokens per second a quarter to a few seconds,
# and enough for the gaps beside running streams.
MLX_PREFILL_TOKENS: dict[Device, int] = {"cpu": 512, "gpu": 2048}
# Most tokens of a batch of vectors or scores, padding included: the rows of other requests wait for
# it. all-MiniLM-L6-v2 on two cores, texts of 9 to 250 tokens, makes 6,600 to 7,100 tokens a second
# with batches of 1,024 to 16,384, the smallest being the fastest: a batch has to keep cores busy.
VECTOR_BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "gpu": 16384}
# Decoders that make vectors take longer rows in parts of so many tokens.
VECTOR_PART_TOKENS = 1024
# Freed buffers that MLX keeps for the next step. On Metal its default is the whole memory limit, so
# what one long prefill used would stay with the process for good. The buffers of a prefill pass
# over an 8B model are some 2048 x 14336 halves, 56 MiB each; 2 GiB keep a few dozen of them. On a
# CPU steady decoding measured the same with 32 MiB (the default) and 2 GiB, so this bounds what
# joins leave.
MLX_POOL_BYTES: dict[Device, int] = {"cpu": 256 << 20, "gpu": 2 << 30}
# What the caches of a small model may grow to in any case: a request takes room for its longest
# answer, and a context of 8,192 tokens holds just one of 4,096 beside a long prompt.
MLX_CACHE_BYTES = 1 << 30
# Vectors as wide as the model, and as its feed-forward layer, that a pass holds at once per token:
# residual, normed, attention and output; gate, up and their product.
WIDE_VECTORS, FEED_FORWARD_VECTORS = 4, 3
# Logits of the decoding sequences, raw and as two steps of sampling see them, in float32.
LOGITS_COPIES = 3
FLOAT32_BYTES = 4
MASK_BYTES = 2


class MemoryPlan(Struct, frozen=True):
    """What a model will take, in bytes.

    Attributes:
        weights: In memory, which may be more than on disk.
        kv_cache: Keys and values of all sequences that may run together.
        transient: Work space of a pass at its peak, and buffers kept for the next.
        kv_bytes_per_token: What a token adds to the cache of a sequence, at most.
        context_tokens: Of one sequence.
    """

    weights: int
    kv_cache: int
    transient: int
    kv_bytes_per_token: int
    context_tokens: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.transient


class VectorSizes(NamedTuple):
    """What llama.cpp is set up for in a model of vectors or scores.

    Attributes:
        row_tokens: The longest row.
        pass_tokens: Most tokens of one pass.
        cells: Tokens whose keys and values fit; 0 in models without a cache.
        budget: Bytes that the longest row was fitted into.
    """

    row_tokens: int
    pass_tokens: int
    cells: int
    budget: int


def choose_context(asked: int | None, trained: int) -> int:
    """Tokens of one sequence: the model's own context, or less if less was asked for."""
    own = trained or DEFAULT_CONTEXT_TOKENS
    return min(own, asked or own)


def choose_cells(
    context_tokens: int, sequences: int, bytes_per_token: int, *, budget: int, is_fixed: bool
) -> tuple[int, int]:
    """How many tokens the cache of llama.cpp holds.

    One sequence of the whole context or many of the usual length, whichever is more.

    Args:
        context_tokens: What one sequence should be able to have.
        sequences: How many there may be.
        bytes_per_token: What one token takes; 0 in models without a growing cache.
        budget: Bytes.
        is_fixed: Somebody asked for this context: it goes before the budget.

    Returns:
        The context of one sequence, shorter than asked for if even that exceeds the budget, and
        the cells of all together.
    """
    usual = sequences * min(LLAMA_USUAL_SEQUENCE_TOKENS, context_tokens)
    needed = _round_up(max(context_tokens, usual))
    if not bytes_per_token:
        return context_tokens, needed
    affordable = max(
        LLAMA_CELL_STEP, budget // bytes_per_token // LLAMA_CELL_STEP * LLAMA_CELL_STEP
    )
    cells = min(needed, affordable)
    if is_fixed:
        return context_tokens, max(cells, _round_up(context_tokens))
    return min(context_tokens, cells), cells


def plan_gguf(
    header: GgufHeader,
    size_bytes: int,
    *,
    context_tokens: int | None,
    max_sequences: int,
    cache: CacheChoice = NO_CHOICE,
) -> MemoryPlan:
    """Plan for llama.cpp, which allocates all it will ever need at load.

    Args:
        header: Of the file, or of all its parts together.
        size_bytes: Of the file, or of all its parts together.
        context_tokens: The context somebody asked for, or `None` for the model's own.
        max_sequences: Most sequences together.
        cache: What is wanted of it.
    """
    bytes_per_token = cache.gguf_bytes(header.kv_bytes_per_token)
    context, cells = choose_cells(
        choose_context(context_tokens, header.context_tokens or 0),
        max_sequences,
        bytes_per_token,
        budget=cache.total_bytes or LLAMA_CACHE_BYTES,
        is_fixed=context_tokens is not None,
    )
    batch_tokens = max(LLAMA_BATCH_TOKENS, max_sequences)
    return MemoryPlan(
        weights=sum(header.bytes_by_type.values()) or size_bytes,
        kv_cache=cells * bytes_per_token,
        transient=batch_tokens * _llama_bytes_per_batch_token(header, cells),
        kv_bytes_per_token=bytes_per_token,
        context_tokens=context,
    )


def choose_vector_sizes(
    header: GgufHeader,
    *,
    asked: int | None,
    batch_tokens: int = LLAMA_BATCH_TOKENS,
    cache_bytes: int | None = None,
) -> VectorSizes:
    """How long a row may be, and what llama.cpp must have room for.

    A causal model reads a long row in passes of the usual length and keeps its keys and values; any
    other needs all of a row in one pass. The model's own context is cut to what may be spent on
    that, one that somebody asked for is not.

    Args:
        header: Of the file, or of all its parts together.
        asked: Tokens of the longest row, or `None` for the model's own.
        batch_tokens: Tokens of a usual pass.
        cache_bytes: What the cache may take, or `None` for the engine's default.
    """
    row_tokens = choose_context(asked, header.context_tokens or 0)
    if header.reads_in_parts:
        budget = cache_bytes or LLAMA_ROW_CACHE_BYTES
        affordable = budget // (header.kv_bytes_per_token or 1) // LLAMA_CELL_STEP * LLAMA_CELL_STEP
    else:
        budget = LLAMA_PASS_BYTES
        affordable = _affordable_pass_tokens(header, budget)
    if asked is None:
        row_tokens = min(row_tokens, max(affordable, LLAMA_CELL_STEP))
    pass_tokens = batch_tokens if header.reads_in_parts else max(batch_tokens, row_tokens)
    cells = _round_up(max(row_tokens, pass_tokens)) if header.has_cache else 0
    return VectorSizes(row_tokens, pass_tokens, cells, budget)


def plan_gguf_vectors(
    header: GgufHeader,
    size_bytes: int,
    *,
    batch_tokens: int = LLAMA_BATCH_TOKENS,
    context_tokens: int | None = None,
    kv_cache_bytes: int | None = None,
) -> MemoryPlan:
    """Plan for llama.cpp with a model of vectors or scores, whose rows do not stay.

    Args:
        header: Of the file, or of all its parts together.
        size_bytes: Of the file, or of all its parts together.
        batch_tokens: Tokens of a usual pass.
        context_tokens: The longest row somebody asked for, or `None` for the model's own.
        kv_cache_bytes: What the cache may take, or `None` for the engine's default.
    """
    sizes = choose_vector_sizes(
        header, asked=context_tokens, batch_tokens=batch_tokens, cache_bytes=kv_cache_bytes
    )
    return MemoryPlan(
        weights=sum(header.bytes_by_type.values()) or size_bytes,
        kv_cache=sizes.cells * header.kv_bytes_per_token,
        transient=pass_bytes(header, sizes),
        kv_bytes_per_token=0,
        context_tokens=sizes.row_tokens,
    )


def pass_bytes(header: GgufHeader, sizes: VectorSizes) -> int:
    """llama.cpp's work space for one pass of a model of vectors or scores.

    llama.cpp keeps room for logits of every token, whether or not the model makes any, and those
    that are made stand there twice; the mask has a half for each pair of tokens.
    """
    values = header.vocabulary_size * (2 if header.has_cache else 1) + _wide_values(header)
    seen = sizes.cells or sizes.pass_tokens
    return sizes.pass_tokens * (FLOAT32_BYTES * values + MASK_BYTES * seen)


def plan_mlx(
    config: Config,
    weight_file_bytes: int,
    *,
    context_tokens: int | None,
    max_sequences: int,
    device: Device,
    cache: CacheChoice = NO_CHOICE,
) -> MemoryPlan:
    """Plan for MLX, whose caches grow with what requests use.

    Unless somebody says how much that may be, it is room for as many whole contexts as there are
    sequences; or, if that is more, for one whole context, without which the longest request could
    never run, for a quarter of the weights or for `MLX_CACHE_BYTES`, so that no model is starved of
    sequences.

    Args:
        config: The model's `config.json`.
        weight_file_bytes: Of all weight files together.
        context_tokens: Upper bound of the context, or `None` for the model's own.
        max_sequences: Most sequences together.
        device: Where MLX computes. On a CPU it works in float32.
        cache: What is wanted of it.
    """
    shape = kv_shape(config)
    weights = _mlx_weights(config, weight_file_bytes, device)
    context = choose_context(context_tokens, own_context_tokens(config) or 0)
    float_bytes = FLOAT32_BYTES if device == "cpu" or dtype(config) == "float32" else 2
    value_bytes = cache.mlx_value_bytes(float_bytes)
    sequence_bytes = ceil(value_bytes * shape.values(context))
    least_bytes = max(sequence_bytes, weights // 4, MLX_CACHE_BYTES)
    usual_bytes = min(max_sequences * sequence_bytes, least_bytes)
    work_bytes = _mlx_work_bytes(
        language_part(config), context, max_sequences=max_sequences, device=device
    )
    if cache.bits is not None:
        # A prefill pass reads one layer's keys and values as floats.
        layers = count(language_part(config), "num_hidden_layers", "n_layer", "n_layers")
        work_bytes += float_bytes * shape.values(context) // max(1, layers)
    return MemoryPlan(
        weights=weights,
        kv_cache=usual_bytes if cache.total_bytes is None else cache.total_bytes,
        # What a pass has used stays in the pool, and the next one may need other sizes.
        transient=work_bytes + min(work_bytes, MLX_POOL_BYTES[device]),
        kv_bytes_per_token=ceil(value_bytes * (shape.full + shape.sliding)),
        context_tokens=context,
    )


def plan_vectors(
    config: Config, weight_bytes: int, *, batch_tokens: int, device: Device
) -> MemoryPlan:
    """Plan for a model of vectors or scores on MLX, which has no cache for sequences to grow in.

    Args:
        config: The model's `config.json`.
        weight_bytes: Of all weight files together.
        batch_tokens: Of one batch, padding included; a single row may have more.
        device: Where it is computed. On a CPU it is done in float32.
    """
    part = language_part(config)
    context = choose_context(None, own_context_tokens(config) or 0)
    tokens = max(batch_tokens, context)
    value_bytes = FLOAT32_BYTES if device == "cpu" else 2
    width = count(part, "hidden_size", "n_embd", "d_model")
    inner = count(part, "intermediate_size", "n_inner") or 4 * width
    at_once = tokens
    kept_bytes = 0
    if architecture(config) not in ENCODERS:
        # Decoders take long rows in parts, and what came before them is in a KV cache.
        at_once = batch_tokens
        heads = count(part, "num_attention_heads", "n_head", "n_heads")
        scores = 2 * heads * VECTOR_PART_TOKENS * context if device == "cpu" else 0
        kept_bytes = value_bytes * kv_shape(config).values(tokens) + FLOAT32_BYTES * scores
    # One vector more than in prefill: GELU on a CPU is made of several steps.
    values = WIDE_VECTORS * width + (FEED_FORWARD_VECTORS + 1) * inner
    work_bytes = at_once * value_bytes * values
    # Encoders that name no type of their weights are older than the field, and in float32.
    is_float32 = architecture(config) in ENCODERS and dtype(config) in {"", "float32"}
    return MemoryPlan(
        weights=weight_bytes if is_float32 else _mlx_weights(config, weight_bytes, device),
        kv_cache=0,
        transient=work_bytes + kept_bytes + MLX_POOL_BYTES[device],
        kv_bytes_per_token=0,
        context_tokens=context,
    )


def _llama_bytes_per_batch_token(header: GgufHeader, cells: int) -> int:
    """What llama.cpp's work space takes per token of a pass.

    It is made for the worst pass: logits of every token and the mask of every cell, in float32.
    """
    return FLOAT32_BYTES * (header.vocabulary_size + cells + _wide_values(header))


def _wide_values(header: GgufHeader) -> int:
    """Activations of a token that llama.cpp holds at once."""
    width = WIDE_VECTORS * header.embedding_length
    return width + FEED_FORWARD_VECTORS * header.feed_forward_length


def _affordable_pass_tokens(header: GgufHeader, budget: int) -> int:
    """The longest pass whose work space, which grows with its square, fits a budget of bytes."""
    linear = pass_bytes(header, VectorSizes(1, 1, 1, budget)) - MASK_BYTES
    # The positive root of MASK_BYTES * n^2 + linear * n = budget.
    return (isqrt(linear * linear + 4 * MASK_BYTES * budget) - linear) // (2 * MASK_BYTES)


def _mlx_weights(config: Config, weight_file_bytes: int, device: Device) -> int:
    """On a CPU dense weights of 16 bits become float32, and so do the scales of quantised ones."""
    if device == "gpu":
        return weight_file_bytes
    found = quantisation(config)
    if found is None:
        return weight_file_bytes * (1 if dtype(config) == "float32" else 2)
    if found.mode != "affine":
        return weight_file_bytes
    stored = stored_bits(config)
    return int(weight_file_bytes * (2 * stored - found.bits) / stored)


def _mlx_work_bytes(part: Config, context: int, *, max_sequences: int, device: Device) -> int:
    """Activations of one prefill pass, and logits of one decode step."""
    tokens = min(MLX_PREFILL_TOKENS[device], context)
    width = count(part, "hidden_size", "n_embd", "d_model")
    inner = count(part, "moe_intermediate_size") * count(part, "num_experts_per_tok")
    inner = max(inner, count(part, "intermediate_size", "n_inner"), 2 * width)
    values = tokens * (WIDE_VECTORS * width + FEED_FORWARD_VECTORS * inner)
    value_bytes = FLOAT32_BYTES if device == "cpu" else 2
    logits = LOGITS_COPIES * max_sequences * count(part, "vocab_size")
    # Metal's attention keeps no scores; MLX's on a CPU makes them all, and their softmax. That of
    # x86 has two blocks at once, but not with 8-bit caches or half types.
    heads = count(part, "num_attention_heads", "n_head", "n_heads")
    scores = 2 * heads * tokens * context if device == "cpu" else 0
    return values * value_bytes + (logits + scores) * FLOAT32_BYTES


def _round_up(tokens: int) -> int:
    return -(-tokens // LLAMA_CELL_STEP) * LLAMA_CELL_STEP
