"""From a model directory to an engine that has answered once. Never touches the network.

Knows files, weights and limits; how tokens are made is `engine`'s business. Only weights come
through mlx-lm: its tokenizer loading needs transformers' classes and may ask the hub.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from lmx.catalog.memory_plan import DEFAULT_CONTEXT_TOKENS, MLX_PREFILL_TOKENS
from lmx.catalog.mlx_config import SANE_CONTEXT_TOKENS, own_context_tokens
from lmx.engines.base import LoadedEngine
from lmx.engines.grammar import LlgGrammarCompiler
from lmx.engines.mlx.blas import Blas
from lmx.engines.mlx.caches import CacheRows, can_batch, can_pad, kv_bytes_per_token, quantise
from lmx.engines.mlx.device import device_name, limit_pool, wire
from lmx.engines.mlx.disk import open_disk
from lmx.engines.mlx.drafting import DraftModel, can_draft
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.exponentials import avoid_slow_exponentials
from lmx.engines.mlx.files import check_directory, read_json
from lmx.engines.mlx.flat import flatten_quantised
from lmx.engines.mlx.keeper import make_store
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.speculation import Speculation
from lmx.engines.mlx.tokenizer import MlxTokenizer, load_tokenizer
from lmx.engines.warmup import sample_passes, warm_up, warm_up_company, warm_up_passes
from lmx.errors import CorruptModel, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo, Sampling

# A pass reads all weights; a GPU multiplies a few hundred tokens by them in that time, a CPU a few.
METAL_PREFILL = PrefillLimits(MLX_PREFILL_TOKENS["gpu"], max_rows=8, pass_tokens=512)
CUDA_PREFILL = METAL_PREFILL._replace(max_rows=32, grain_tokens=32)
CPU_PREFILL = PrefillLimits(MLX_PREFILL_TOKENS["cpu"], max_rows=8, pass_tokens=32)
# Both ways of sampling have kernels of their own.
WARM_UP = [Sampling(max_tokens=1, temperature=1.0, top_p=top_p, seed=0) for top_p in (1.0, 0.9)]
NO_DRAFT = "{name} cannot draft for this model, which goes without: {reason}."
NO_PREFIXES = (
    "This model's caches cannot be taken apart; every prompt is computed from its beginning."
)


def load_engine(load: Load, blas: Blas) -> LoadedEngine:
    """Bring the model up on this thread.

    Raises:
        CorruptModel: Files are missing, truncated or unreadable.
        UnsupportedModel: The architecture or tokenizer is not one MLX can run, or its cache cannot
            be quantised as it should be.
    """
    directory = Path(load.source)
    check_directory(directory)
    config = read_json(directory / "config.json")
    tokenizer_config = read_json(directory / "tokenizer_config.json", required=False)
    tokenizer, notes = load_tokenizer(directory, tokenizer_config)
    pool_bytes = limit_pool()
    model = load_generator(directory, config, is_fast=blas.is_fast)
    if load.kv_bits is not None:
        quantise(model)
    info = _model_info(model, load, context_tokens(config, tokenizer_config))
    wire(info.weight_bytes + info.kv_bytes_per_token * info.context_tokens + pool_bytes)
    limits = prefill_limits()
    if not can_pad(model):
        limits = limits._replace(max_rows=1)
    ends = _end_ids(directory, config, tokenizer)
    if not ends:
        notes.append("The model names no end token; answers run to their token limit.")
    vocabulary_size = count_logits(model)
    store = make_store(model, load.prefix_cache_bytes)
    if load.prefix_cache_bytes and not store.is_on:
        notes.append(NO_PREFIXES)
    draft = None
    if load.draft and load.speculation:
        draft, note = load_draft(load.draft, tokenizer, vocabulary_size, is_fast=blas.is_fast)
        notes += [note] if note else []
    disk = open_disk(model, store, load)
    if disk is not None and disk.problem:
        notes.append(disk.problem)
    engine = MlxEngine(
        model,
        info,
        end_ids=ends,
        limits=limits,
        vocabulary_size=vocabulary_size,
        savings=Savings(store, Speculation(is_on=load.speculation, model=draft), disk),
    )
    warm_up(engine, WARM_UP)
    if limits.is_grainy:
        warm_up_company(engine)
        warm_up_passes(engine, limits.usual_shapes())
    grammars = LlgGrammarCompiler(
        tokenizer.vocabulary_json, vocabulary_size=vocabulary_size, end_ids=ends
    )
    samples = sample_passes(engine, engine.shrink)
    return LoadedEngine(engine, tokenizer, grammars, [*blas.notes, *notes], pass_samples=samples)


def prefill_limits() -> PrefillLimits:
    """What a pass may hold on this process's device."""
    if device_name() == "cpu":
        return CPU_PREFILL
    return CUDA_PREFILL if mx.cuda.is_available() else METAL_PREFILL


def load_draft(
    source: str, tokenizer: MlxTokenizer, vocabulary_size: int, *, is_fast: bool
) -> tuple[DraftModel | None, str]:
    """Bring a draft model up, or say why the large model goes without.

    Args:
        source: Its directory.
        tokenizer: The large model's.
        vocabulary_size: Logits per token of the large model.
        is_fast: float32 products run at the machine's speed.
    """
    directory = Path(source)
    try:
        check_directory(directory)
        config = read_json(directory / "config.json")
        tokenizer_config = read_json(directory / "tokenizer_config.json", required=False)
        own, _ = load_tokenizer(directory, tokenizer_config)
        if own.vocabulary != tokenizer.vocabulary:
            return None, NO_DRAFT.format(
                name=directory.name, reason="its vocabulary is another one"
            )
        model = load_generator(directory, config, is_fast=is_fast)
    except (CorruptModel, UnsupportedModel) as error:
        return None, NO_DRAFT.format(name=directory.name, reason=error.message)
    if not can_draft(model):
        reason = "its caches cannot be cut back"
        return None, NO_DRAFT.format(name=directory.name, reason=reason)
    limits = prefill_limits()
    draft = DraftModel(
        model,
        context_tokens=context_tokens(config, tokenizer_config),
        chunk_tokens=limits.chunk_tokens,
        vocabulary_size=vocabulary_size,
    )
    return draft, ""


def context_tokens(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int:
    """The model's own context length.

    The weights' limit counts; the tokenizer's is only a stand-in for configurations without one.
    """
    limit = own_context_tokens(config) or tokenizer_config.get("model_max_length")
    if isinstance(limit, int | float) and 0 < limit <= SANE_CONTEXT_TOKENS:
        return int(limit)
    return DEFAULT_CONTEXT_TOKENS


def end_ids(*configs: dict[str, Any]) -> frozenset[int]:
    """Every id that one of a model's configurations calls an end token."""
    found: set[int] = set()
    for config in configs:
        named = config.get("eos_token_id")
        found |= {i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int)}
    return frozenset(found)


def _end_ids(directory: Path, config: dict[str, Any], tokenizer: MlxTokenizer) -> frozenset[int]:
    generation_config = read_json(directory / "generation_config.json", required=False)
    ids = end_ids(config, config.get("text_config") or {}, generation_config)
    return ids if tokenizer.end_id is None else ids | {tokenizer.end_id}


def load_generator(directory: Path, config: dict[str, Any], *, is_fast: bool) -> Any:
    """A model that answers prompts, one pass at a time; see `load_weights`."""
    model = load_weights(directory, config, is_fast=is_fast)
    avoid_slow_exponentials(model)
    return model


def load_weights(
    directory: Path, config: dict[str, Any], *, is_fast: bool, options: Mapping[str, Any] = {}
) -> Any:
    """A model of mlx-lm's, evaluated.

    Args:
        directory: The model's.
        config: Its `config.json`.
        is_fast: float32 products run at the machine's speed.
        options: Further arguments of mlx-lm's `load_model`.

    Raises:
        CorruptModel: Files are damaged, or do not belong together.
        UnsupportedModel: mlx-lm has no such architecture.
    """
    if not isinstance(config.get("model_type"), str):
        raise CorruptModel("config.json names no model_type")
    if config.get("model_file"):
        raise UnsupportedModel(f"{directory.name} needs Python code of its own; none is run")
    try:
        model, _ = load_model(directory, lazy=True, **options)
        if device_name() == "cpu":
            _cast_for_cpu(model, is_fast=is_fast)
        elif mx.cuda.is_available():
            flatten_quantised(model)
        mx.eval(model.parameters())
    except ValueError as error:
        if "not supported" in str(error):
            raise UnsupportedModel(f"MLX cannot run this model: {error}") from error
        raise CorruptModel(f"weights and config.json do not match: {error}") from error
    except AttributeError as error:  # the type names a module of mlx-lm that holds no model
        raise UnsupportedModel(f"MLX cannot run this model: {error}") from error
    except (OSError, RuntimeError, LookupError, TypeError) as error:
        raise CorruptModel(f"the model cannot be read: {error}") from error
    return model


def _cast_for_cpu(model: Any, *, is_fast: bool) -> None:
    """Use the float type that MLX's CPU kernels are fast in.

    float32, also for the scales of quantised weights, where half types are 7 to 40 times slower.
    Dense bfloat16 stays without OpenBLAS, because there it is the faster one.
    """
    dtypes = {value.dtype for value in _arrays(model)}
    is_dense = mx.uint32 not in dtypes
    if is_fast or not is_dense or mx.bfloat16 not in dtypes:
        model.set_dtype(mx.float32)


_Flat = list[tuple[str, mx.array]]


def count_weight_bytes(model: Any) -> int:
    """Size of the parameters in memory."""
    return sum(value.nbytes for value in _arrays(model))


def _arrays(model: Any) -> list[mx.array]:
    return [value for _, value in cast("_Flat", tree_flatten(model.parameters()))]


def _model_info(model: Any, load: Load, own_context_tokens: int) -> ModelInfo:
    asked = load.context_tokens or own_context_tokens
    return ModelInfo(
        context_tokens=min(own_context_tokens, asked),
        max_sequences=load.max_sequences if can_batch(model) else 1,
        weight_bytes=count_weight_bytes(model),
        kv_bytes_per_token=kv_bytes_per_token(model),
        device=device_name(),
        engine="mlx",
    )


def count_logits(model: Any) -> int:
    """The size of the vocabulary, from the shape of a pass that is never computed."""
    logits: mx.array = model(mx.array([[0]]), cache=CacheRows.single(model).layers)
    return logits.shape[-1]
