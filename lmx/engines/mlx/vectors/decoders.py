"""mlx-lm's decoders as encoders: hidden states of the last layer instead of tokens.

Knows how such directories differ from those of chat models: no head, and names without the prefix.
Attention is causal, so padding on the right changes nothing before it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import _get_classes

from lmx.catalog.memory_plan import VECTOR_PART_TOKENS
from lmx.catalog.mlx_config import count, language_part, own_context_tokens
from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.loading import load_weights
from lmx.engines.mlx.vectors.rows import Padded
from lmx.errors import CorruptModel, UnsupportedModel

# Longer rows go through in parts, with a KV cache: their scores would not fit otherwise.
PART_TOKENS = VECTOR_PART_TOKENS
# Fields by which configurations say that tokens look both ways, which mlx-lm's classes cannot.
BIDIRECTIONAL = {"is_causal": False, "use_bidirectional_attention": True}
STATES_AXES = 3  # (B, L, D)
# Weights that make tokens or labels out of hidden states.
HEADS = ("lm_head.", "score.")


class DecoderStates:
    """Token ids to hidden states, through the inner model of an mlx-lm class.

    Args:
        model: Of mlx-lm, evaluated.
        config: Its `config.json`.

    Raises:
        CorruptModel: The configuration names no sizes.
        UnsupportedModel: The class has no inner model that gives hidden states.
    """

    def __init__(self, model: Any, config: Mapping[str, Any]) -> None:
        part = language_part(config)
        self.vocabulary_size = count(part, "vocab_size")
        self.max_tokens = own_context_tokens(config) or 0
        self.pad_id = 0
        if not self.vocabulary_size or not self.max_tokens:
            raise CorruptModel("config.json has no usable vocab_size or max_position_embeddings")
        self._model = model
        inner = getattr(model, "model", None)
        states = None if inner is None else inner(mx.array([[0]]))
        if not isinstance(states, mx.array) or states.ndim != STATES_AXES:
            name = config.get("model_type")
            raise UnsupportedModel(f"mlx-lm's class for {name} gives no hidden states")
        self.width = int(states.shape[-1])

    def __call__(self, padded: Padded) -> mx.array:
        """Hidden states of the last layer, normed: (B, L, D)."""
        ids = mx.array(padded.ids)
        if ids.shape[1] <= PART_TOKENS:
            found: mx.array = self._model.model(ids)
            return found
        return run_in_parts(self._model, ids, CacheRows.single(self._model))


def run_in_parts(model: Any, ids: mx.array, caches: CacheRows) -> mx.array:
    """Hidden states of ids that follow what the caches hold; evaluated if there are many.

    Args:
        model: Of mlx-lm.
        ids: (B, L) int32.
        caches: Grow by L tokens.

    Shapes: -> (B, L, D).
    """
    if ids.shape[1] <= PART_TOKENS:
        whole: mx.array = model.model(ids, caches.layers)
        return whole
    parts = []
    for start in range(0, ids.shape[1], PART_TOKENS):
        parts.append(model.model(ids[:, start : start + PART_TOKENS], caches.layers))
        mx.eval(parts[-1], caches.states())  # or all parts' scores would be made at once
    return mx.concatenate(parts, axis=1)


def load_decoder(directory: Path, config: dict[str, Any], *, is_fast: bool) -> Any:
    """A decoder without its head.

    Raises:
        CorruptModel: Files are damaged, or do not belong together.
        UnsupportedModel: mlx-lm has no such class, or tokens look both ways.
    """
    check_causal(config)
    options = {"get_model_classes": _headless, "model_config": {"tie_word_embeddings": True}}
    return load_weights(directory, config, is_fast=is_fast, options=options)


def check_causal(config: Mapping[str, Any]) -> None:
    """Tokens look back only.

    Raises:
        UnsupportedModel: They look both ways.
    """
    part = language_part(config)
    for field, value in BIDIRECTIONAL.items():
        if part.get(field) is value:
            raise UnsupportedModel(
                f"config.json has {field} {value}: this decoder's tokens look both ways, "
                "which mlx-lm's classes cannot"
            )


def _headless(config: dict[str, Any]) -> tuple[Any, Any]:
    """The class for a configuration, which takes weights without a head and without a prefix."""
    model_class, arguments_class = _get_classes(config)

    class Headless(model_class):  # type: ignore[misc, valid-type]  # known at run time only
        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            named = {n: w for n, w in weights.items() if not n.startswith(HEADS)}
            if not any(name.startswith("model.") for name in named):
                named = {f"model.{name}": value for name, value in named.items()}
            own = getattr(super(), "sanitize", None)
            return named if own is None else own(named)

    return Headless, arguments_class
