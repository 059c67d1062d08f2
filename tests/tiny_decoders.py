"""Random Qwen3 decoders that give vectors or scores, in directories, small enough for any test.

It knows no engine: it writes the files that models of the Hugging Face format have. The same
weights come out every time.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, processors

from tests.tiny_models import CONTEXT_TOKENS, build_tiny_tokenizer
from tests.tiny_vectors import write_modules

WIDTH = 32
# Tokens that the form of Qwen3-Reranker spells, beside those of the tiny tokenizer.
SPECIAL = ("<think>", "</think>")


def build_tiny_embedder(path: Path, *, context_tokens: int = CONTEXT_TOKENS) -> Path:
    """A decoder as an embedder: the last token's vector, names without ``model.``, no head."""
    tokenizer = decoder_tokenizer()
    end = "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    config = decoder_config(tokenizer, context_tokens=context_tokens)
    _write(path, config, tokenizer)
    weights = {
        name.removeprefix("model."): value
        for name, value in decoder_weights(config).items()
        if not name.startswith("lm_head.")
    }
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "pt"})
    write_modules(path, pooling="lasttoken", is_normalised=True, max_tokens=None)
    return path


def build_tiny_reranker(
    path: Path, *, context_tokens: int = CONTEXT_TOKENS, is_tied: bool = True
) -> Path:
    """A decoder that answers yes or no about a document."""
    tokenizer = decoder_tokenizer()
    config = decoder_config(tokenizer, context_tokens=context_tokens) | {
        "tie_word_embeddings": is_tied
    }
    _write(path, config, tokenizer)
    weights = decoder_weights(config)
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    return path


def decoder_tokenizer() -> Tokenizer:
    """The tiny byte-level BPE with "yes" and "no" as tokens of their own."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(word, special=False) for word in ("yes", "no")])
    return tokenizer


def decoder_config(tokenizer: Tokenizer, *, context_tokens: int) -> dict[str, Any]:
    """`config.json` of a two-layer Qwen3."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": context_tokens,
        "tie_word_embeddings": False,
    }


def decoder_weights(config: dict[str, Any]) -> dict[str, mx.array]:
    """Tensors under mlx-lm's names, large enough that every token matters."""
    shapes: Any = tree_flatten(Model(ModelArgs.from_dict(config)).parameters())
    weights = {}
    for index, (name, value) in enumerate(shapes):
        drawn = mx.random.normal(value.shape, key=mx.random.key(100 + index))
        if value.ndim == 1:
            weights[name] = 1 + 0.2 * drawn
        else:
            weights[name] = drawn * (1.5 / value.shape[-1] ** 0.5)
    return weights


def _write(path: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
