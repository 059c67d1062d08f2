"""From a GGUF file to an engine that has answered once. Knows sizes and limits, not tokens.

llama.cpp allocates and clears the whole cache at load, so its size is settled here, by the rule of
`lmx.catalog.memory_plan`. Sequences that turn out longer make others wait; none fails.
"""

from functools import partial

from lmx.catalog.memory_plan import (
    LLAMA_BATCH_TOKENS,
    LLAMA_CACHE_BYTES,
    LLAMA_CELL_STEP,
    choose_cells,
    choose_context,
)
from lmx.engines.base import LoadedEngine
from lmx.engines.grammar import LlgGrammarCompiler
from lmx.engines.llama.batch import RowBatch
from lmx.engines.llama.cells import forget, make_cells
from lmx.engines.llama.disk import open_disk
from lmx.engines.llama.engine import LlamaEngine
from lmx.engines.llama.library import ContextSize, LlamaContext, LlamaModel, has_gpu, max_sequences
from lmx.engines.llama.speculation import Speculation
from lmx.engines.llama.states import LlamaStore, LlamaTier, Tiers
from lmx.engines.llama.threads import choose_threads
from lmx.engines.llama.tokenizer import end_ids, grammar_vocabulary, load_tokenizer
from lmx.engines.warmup import sample_passes, warm_up
from lmx.errors import CorruptModel, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo, Sampling

PROBE_TOKENS = 32
NOT_QUANTISED = "models.kv_bits is set for this model, but {}"
# By way of which ranges of tokens come out of the cache and back.
SPARE_SEQUENCES = 1
NO_DRAFT = "Draft models are for MLX models; this one drafts from its own text alone."
SHORTENED = (
    "The context is {tokens} tokens instead of {wanted}: its cache of keys and values may take "
    "{budget:.1f} GB. Raise gguf.kv_cache_gb for more."
)


def load_engine(load: Load) -> LoadedEngine:
    """Bring the model up on this thread.

    Raises:
        CorruptModel: llama.cpp cannot read the file.
        OutOfMemory: There is no room for it.
        UnsupportedModel: It is no model that answers prompts, or its cache cannot be quantised as
            it should be.
    """
    model = LlamaModel(load.source, load.gguf)
    if not model.is_decoder:
        model.close()
        raise UnsupportedModel("this kind of model does not answer prompts token by token")
    tokenizer, notes = load_tokenizer(model)
    threads = choose_threads(load.gguf.threads)
    bytes_per_token = _measure(model, threads, load.kv_bits)
    store = LlamaStore(load.prefix_cache_bytes, needs_snapshots=not model.can_rewind)
    spare = SPARE_SEQUENCES if store.is_on and model.can_rewind else 0
    sequences = min(load.max_sequences, max_sequences() - spare)
    wanted = choose_context(load.context_tokens, model.trained_context_tokens)
    budget = load.gguf.kv_cache_bytes or LLAMA_CACHE_BYTES
    context_tokens, cells = choose_cells(
        wanted, sequences, bytes_per_token, budget=budget, is_fixed=load.context_tokens is not None
    )
    if context_tokens < wanted:
        notes.append(SHORTENED.format(tokens=context_tokens, wanted=wanted, budget=budget / 1e9))
    ends = end_ids(model)
    if not ends:
        notes.append("The model names no end token; answers run to their token limit.")
    info = ModelInfo(
        context_tokens=context_tokens,
        max_sequences=sequences,
        weight_bytes=model.weight_bytes,
        kv_bytes_per_token=bytes_per_token,
        device="gpu" if has_gpu() and load.gguf.gpu_layers else "cpu",
        engine="llama",
    )
    disk = open_disk(load, store, info.device)
    batch_tokens = max(LLAMA_BATCH_TOKENS, sequences + spare)
    size = ContextSize(cells, sequences + spare, batch_tokens, threads, load.kv_bits)
    context = LlamaContext(model, size)
    held = make_cells(model, context, info, kept=Tiers(store, disk))
    speculation = Speculation(is_on=load.speculation)
    engine = LlamaEngine(model, context, info, cells=held, end_ids=ends, speculation=speculation)
    notes += _remarks(load, disk)
    warm_up(engine, [Sampling(max_tokens=1, seed=0)])
    grammars = LlgGrammarCompiler(
        partial(grammar_vocabulary, model, tokenizer, ends),
        vocabulary_size=model.vocabulary_size,
        end_ids=ends,
    )
    samples = sample_passes(engine, partial(forget, held))
    return LoadedEngine(engine, tokenizer, grammars, notes, pass_samples=samples)


def _remarks(load: Load, disk: LlamaTier | None) -> list[str]:
    """What was asked for and is not done."""
    has_draft = bool(load.draft and load.speculation)
    problem = None if disk is None else disk.problem
    return [NO_DRAFT] * has_draft + ([problem] if problem else [])


def _measure(model: LlamaModel, threads: int, kv_bits: int | None) -> int:
    try:
        return measure_bytes_per_token(model, threads, kv_bits)
    except CorruptModel as error:
        if kv_bits is None:
            raise
        # The same model has a context of halves, unless that fails too.
        measure_bytes_per_token(model, threads)
        raise UnsupportedModel(NOT_QUANTISED.format(error.message)) from error


def measure_bytes_per_token(model: LlamaModel, threads: int, kv_bits: int | None = None) -> int:
    """What the cache grows by per token, whatever the architecture, from a context made for it."""
    size = ContextSize(LLAMA_CELL_STEP, 1, PROBE_TOKENS, threads, kv_bits)
    context = LlamaContext(model, size)
    try:
        sizes = []
        batch = RowBatch(PROBE_TOKENS)
        for start in range(0, 2 * PROBE_TOKENS, PROBE_TOKENS):
            batch.clear()
            batch.append(0, [0] * PROBE_TOKENS, start, wanted_from=PROBE_TOKENS)
            context.decode(batch)
            sizes.append(context.sequence_bytes(0))
        return -(-(sizes[1] - sizes[0]) // PROBE_TOKENS)
    finally:
        context.close()
