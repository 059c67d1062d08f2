"""From a GGUF file to an engine of vectors or scores that has computed once.

Knows what headers say of pooling and labels; sizes come from `lmx.catalog.memory_plan`, so that
what a load reserves and what it takes agree. What llama.cpp cannot score right is refused here.
"""

from pathlib import Path

from lmx.catalog.gguf_files import read_model
from lmx.catalog.gguf_header import GgufHeader
from lmx.catalog.memory_plan import (
    LLAMA_BATCH_TOKENS,
    VectorSizes,
    choose_context,
    choose_vector_sizes,
    pass_bytes,
)
from lmx.engines.llama.library import (
    ContextSize,
    LlamaModel,
    VectorContext,
    has_gpu,
    max_sequences,
)
from lmx.engines.llama.threads import choose_threads
from lmx.engines.llama.vector_engine import (
    Finish,
    LlamaVectorEngine,
    normalise,
    share_of,
    softmax_of,
    squash,
)
from lmx.engines.llama.vector_tokenizer import load_vector_tokenizer
from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo, Purpose

# Rows of eight tokens, shorter than which hardly any are, fill a usual pass.
MAX_ROWS = 64
# llama.cpp takes the softmax of the classifier's outputs itself in these.
# Source: `build_pooling` of llama-graph.cpp.
SOFTMAX_ARCHITECTURES = frozenset({"qwen3", "qwen3vl"})
# What classifiers of two labels call a document that answers the query.
RELEVANT = frozenset({"yes", "true", "relevant", "positive", "entailment"})
SHORTENED = (
    "A text may have {tokens} tokens instead of {wanted}: reading one may take {budget:.1f} GB. "
    "Set models.context_tokens for another length."
)
SHORTENED_CACHE = (
    "A text may have {tokens} tokens instead of {wanted}: its cache of keys and values may take "
    "{budget:.1f} GB. Raise gguf.kv_cache_gb for more."
)
FIRST_SEGMENT = (
    "llama.cpp reads query and document as one segment, which BERT was not trained with: scores "
    "are a little off those of the original model."
)


def load_vectors(load: Load) -> LoadedVectors:
    """Bring the model up on this thread.

    Raises:
        CorruptModel: The file is damaged, or llama.cpp cannot read it.
        OutOfMemory: There is no room for it.
        UnsupportedModel: It is of another purpose, or llama.cpp does not score as it does.
    """
    header = read_model(Path(load.source)).header
    _check_purpose(header, load.purpose)
    sizes = choose_vector_sizes(
        header, asked=load.context_tokens, cache_bytes=load.gguf.kv_cache_bytes
    )
    model = LlamaModel(load.source, load.gguf)
    finish = normalise if load.purpose == "embedding" else _choose_score(header, model.labels)
    tokenizer = load_vector_tokenizer(model, max_tokens=sizes.row_tokens)
    size = ContextSize(
        cells=sizes.cells or sizes.pass_tokens,
        sequences=min(MAX_ROWS, sizes.pass_tokens, max_sequences()),
        batch_tokens=sizes.pass_tokens,
        threads=choose_threads(load.gguf.threads),
    )
    context = VectorContext(model, size, header.vector_pooling)
    cache_bytes = sizes.cells * header.kv_bytes_per_token
    engine = LlamaVectorEngine(
        model,
        context,
        ModelInfo(
            context_tokens=sizes.row_tokens,
            max_sequences=size.sequences,
            weight_bytes=model.weight_bytes,
            device="gpu" if has_gpu() and load.gguf.gpu_layers else "cpu",
            engine="llama",
            purpose=load.purpose,
            width=model.vector_width if load.purpose == "embedding" else 0,
        ),
        batch_tokens=LLAMA_BATCH_TOKENS,
        finish=finish,
        fixed_bytes=model.weight_bytes + cache_bytes + pass_bytes(header, sizes),
    )
    engine.compute([TokenRow([0])])  # so that the first request is not slow
    return LoadedVectors(engine, tokenizer, _notes(header, sizes, load))


def _check_purpose(header: GgufHeader, purpose: Purpose) -> None:
    if header.is_encoder_decoder:
        raise UnsupportedModel(f"{header.architecture} is an encoder with a decoder")
    if (header.purpose == "reranking") != (purpose == "reranking"):
        kind = "no reranking model" if purpose == "reranking" else "a reranking model"
        raise UnsupportedModel(f"it is {kind}: it cannot be used for {purpose}")
    if purpose == "reranking" and not header.has_classifier:
        raise UnsupportedModel("it says that it is a reranking model, and has no classifier")


def _choose_score(header: GgufHeader, labels: list[str]) -> Finish:
    """How a score in 0 to 1 is read from a classifier's outputs."""
    is_softmax = header.architecture in SOFTMAX_ARCHITECTURES
    if len(labels) == 1:
        if is_softmax:
            raise UnsupportedModel(
                "llama.cpp gives every document of this model the same score: its classifier has "
                "one output, and the softmax of one number is 1"
            )
        return squash
    relevant = [index for index, label in enumerate(labels) if label.lower() in RELEVANT]
    if len(relevant) != 1:
        raise UnsupportedModel(
            f"which of its classifier's outputs means that a document is relevant? {labels}"
        )
    return share_of(relevant[0]) if is_softmax else softmax_of(relevant[0])


def _notes(header: GgufHeader, sizes: VectorSizes, load: Load) -> list[str]:
    notes = []
    wanted = choose_context(load.context_tokens, header.context_tokens or 0)
    if sizes.row_tokens < wanted:
        sentence = SHORTENED_CACHE if header.reads_in_parts else SHORTENED
        budget = sizes.budget / 1e9
        notes.append(sentence.format(tokens=sizes.row_tokens, wanted=wanted, budget=budget))
    is_bert = header.architecture == "bert" and header.tokenizer == "bert"
    if load.purpose == "reranking" and is_bert:
        notes.append(FIRST_SEGMENT)
    return notes
