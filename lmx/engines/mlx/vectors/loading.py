"""From a model directory to an engine of vectors or scores that has computed once.

Knows which net a directory needs and how long rows and batches may be. Never touches the network.
Encoders are read here from safetensors; decoders come through mlx-lm.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lmx.catalog.memory_plan import VECTOR_BATCH_TOKENS
from lmx.catalog.mlx_config import (
    ENCODERS,
    MODERNBERT,
    SANE_CONTEXT_TOKENS,
    architecture,
    class_name,
)
from lmx.catalog.mlx_files import MODULES_FILE
from lmx.engines.mlx.blas import Blas
from lmx.engines.mlx.device import device_name, limit_pool, wire
from lmx.engines.mlx.files import check_directory, read_json
from lmx.engines.mlx.loading import count_weight_bytes, load_weights
from lmx.engines.mlx.vectors.bert import BertEncoder
from lmx.engines.mlx.vectors.decoders import DecoderStates, check_causal, load_decoder
from lmx.engines.mlx.vectors.engine import BatchLimits, MlxVectorEngine
from lmx.engines.mlx.vectors.heads import Encoder, Net, cross_encoder_net, embedding_net
from lmx.engines.mlx.vectors.modernbert import ModernBertEncoder
from lmx.engines.mlx.vectors.modules import read_limits, read_plan
from lmx.engines.mlx.vectors.prompts import PromptTokenizer, answer_ids, find_form
from lmx.engines.mlx.vectors.reranker import GenerativeReranker
from lmx.engines.mlx.vectors.tokenizer import RowTokenizer, open_tokenizer
from lmx.engines.mlx.vectors.weights import Weights, open_weights
from lmx.engines.vectors import LoadedVectors, TokenRow, VectorTokenizer
from lmx.errors import CorruptModel, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo

# Rows that are padded together. More of them only leave the processor's cache.
CPU_GROUP_TOKENS = 1024
NO_MODULES = "The directory has no modules.json; vectors are pooled by {} and normalised."


class _Built(NamedTuple):
    net: Net
    width: int  # 0 for scores
    max_tokens: int
    vocabulary_size: int
    weight_bytes: int
    # Of a generative reranker.
    form: str | None = None


class _Files(NamedTuple):
    directory: Path
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    tokenizer: Tokenizer


def load_vectors(load: Load, blas: Blas) -> LoadedVectors:
    """Bring an embedding or reranking model up on this thread.

    Raises:
        CorruptModel: Files are missing, truncated or unreadable.
        UnsupportedModel: The architecture or a module is not one this engine can run.
    """
    directory = Path(load.source)
    check_directory(directory)
    config = read_json(directory / "config.json")
    tokenizer_config = read_json(directory / "tokenizer_config.json", required=False)
    limits = read_limits(directory)
    tokenizer = open_tokenizer(directory, tokenizer_config, is_lowered=limits.is_lowered)
    files = _Files(directory, config, tokenizer_config, tokenizer)
    pool_bytes = limit_pool()
    built = _build(load, files, is_fast=blas.is_fast)
    max_tokens = _shortest(
        built.max_tokens, limits.max_tokens, load.context_tokens, _own_limit(tokenizer_config)
    )
    info = ModelInfo(
        context_tokens=max_tokens,
        max_sequences=load.max_sequences,
        weight_bytes=built.weight_bytes,
        device=device_name(),
        engine="mlx",
        purpose=load.purpose,
        width=built.width,
    )
    wire(info.weight_bytes + 2 * pool_bytes)
    engine = MlxVectorEngine(
        built.net, info, vocabulary_size=built.vocabulary_size, limits=_batch_limits(blas)
    )
    rows = _row_tokenizer(built, tokenizer, max_tokens)
    _warm_up(engine, rows)
    return LoadedVectors(engine, rows, [*blas.notes, *_notes(load, files)])


def _build(load: Load, files: _Files, *, is_fast: bool) -> _Built:
    kind = architecture(files.config)
    if not kind:
        raise CorruptModel("config.json names no model_type")
    if kind in ENCODERS:
        return _build_encoder(load, files)
    if load.purpose == "embedding":
        return _build_decoder(files, is_fast=is_fast)
    return _build_generative(files, is_fast=is_fast)


def _build_encoder(load: Load, files: _Files) -> _Built:
    weights = open_weights(files.directory, files.config)
    encoder = _encoder(files.config, weights)
    if load.purpose == "embedding":
        plan = read_plan(files.directory, encoder.width, default_pooling="mean")
        net, width = embedding_net(encoder, plan), plan.width
        weight_bytes = weights.taken_bytes + plan.weight_bytes
    else:
        net, width = cross_encoder_net(files.config, encoder, weights), 0
        weight_bytes = weights.taken_bytes
    return _Built(net, width, encoder.max_tokens, encoder.vocabulary_size, weight_bytes)


def _encoder(config: dict[str, Any], weights: Weights) -> Encoder:
    if architecture(config) in MODERNBERT:
        return ModernBertEncoder(config, weights)
    return BertEncoder(config, weights)


def _build_decoder(files: _Files, *, is_fast: bool) -> _Built:
    model = load_decoder(files.directory, files.config, is_fast=is_fast)
    states = DecoderStates(model, files.config)
    plan = read_plan(files.directory, states.width, default_pooling="lasttoken")
    net = embedding_net(states, plan)
    weight_bytes = count_weight_bytes(model) + plan.weight_bytes
    return _Built(net, plan.width, states.max_tokens, states.vocabulary_size, weight_bytes)


def _build_generative(files: _Files, *, is_fast: bool) -> _Built:
    named = class_name(files.config)
    if named.endswith("ForSequenceClassification"):
        raise UnsupportedModel(f"{named} is not a cross-encoder that this engine knows")
    check_causal(files.config)
    form = find_form(files.directory, files.tokenizer_config)
    answers = answer_ids(files.tokenizer)
    model = load_weights(files.directory, files.config, is_fast=is_fast)
    states = DecoderStates(model, files.config)
    net = GenerativeReranker(model, states, answers)
    weight_bytes = count_weight_bytes(model)
    return _Built(net, 0, states.max_tokens, states.vocabulary_size, weight_bytes, form)


def _row_tokenizer(built: _Built, tokenizer: Tokenizer, max_tokens: int) -> VectorTokenizer:
    if built.form is None:
        return RowTokenizer(tokenizer, max_tokens, built.vocabulary_size)
    return PromptTokenizer(
        tokenizer, built.form, max_tokens=max_tokens, vocabulary_size=built.vocabulary_size
    )


def _own_limit(tokenizer_config: dict[str, Any]) -> int | None:
    found = tokenizer_config.get("model_max_length")
    if isinstance(found, int | float) and 0 < found <= SANE_CONTEXT_TOKENS:
        return int(found)
    return None


def _shortest(*limits: int | None) -> int:
    return min(limit for limit in limits if limit)


def _batch_limits(blas: Blas) -> BatchLimits:
    device = device_name()
    batch_tokens = VECTOR_BATCH_TOKENS[device]
    if device == "gpu":
        return BatchLimits(batch_tokens, batch_tokens)
    return BatchLimits(batch_tokens, CPU_GROUP_TOKENS, streams=blas.free_cores, blas=blas)


def _notes(load: Load, files: _Files) -> Sequence[str]:
    if load.purpose != "embedding" or (files.directory / MODULES_FILE).is_file():
        return []
    is_encoder = architecture(files.config) in ENCODERS
    return [NO_MODULES.format("their mean" if is_encoder else "the last token")]


def _warm_up(engine: MlxVectorEngine, tokenizer: VectorTokenizer) -> None:
    """Read all weights and make the kernels, so that neither the first request nor an error waits.

    Raises:
        CorruptModel: The weights cannot be read, or give no numbers.
    """
    ids = tokenizer.encode(["a"], limit=tokenizer.max_tokens)[0].ids or [0]
    try:
        found = engine.compute([TokenRow(ids), TokenRow([*ids, ids[0]][-tokenizer.max_tokens :])])
    except RuntimeError as error:
        raise CorruptModel(f"the model cannot be computed: {error}") from error
    if not (found == found).all():  # noqa: PLR0124 - what is not equal to itself is no number
        raise CorruptModel("the model gives no numbers: its weights are damaged")
