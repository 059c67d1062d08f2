"""What `config.json` of an MLX or Hugging Face model says of its shape. Pure.

The file is somebody else's: a key of an unexpected type counts as absent. Names of keys are those
of transformers and, for what the caches keep, of mlx-lm 0.32.2.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Config = Mapping[str, Any]
MlxPurpose = Literal["generation", "embedding", "reranking"]

# Where architectures keep their context length: most models, GPT-2 style, MPT, ChatGLM, older.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
# transformers writes 1e30 for "no limit"; no real context reaches this.
SANE_CONTEXT_TOKENS = 100_000_000
# No dimension or count of a model reaches this.
SANE_COUNT = 2**32
# What is read as an encoder: each of its tokens sees the whole row.
BERT = frozenset({"bert"})
ROBERTA = frozenset({"roberta", "xlm-roberta", "camembert"})
MODERNBERT = frozenset({"modernbert"})
ENCODERS = BERT | ROBERTA | MODERNBERT
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Models with latent attention whose caches in mlx-lm hold every head's keys and values all the
# same; the others' hold the latent vector.
EXPANDED_LATENT = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})
# Layers that keep a state of fixed size and nothing per token.
STATE_LAYERS = frozenset({"linear_attention", "conv", "mamba", "recurrent"})
DEFAULT_FULL_ATTENTION_INTERVAL = 4  # of the models that have such layers without listing them


class Quantisation(NamedTuple):
    """How quantised weights are stored.

    Attributes:
        bits: Of one weight.
        group_size: Weights that share a scale.
        mode: ``affine``, with a scale and a bias of 16 bits a group, ``mxfp4`` or another.
    """

    bits: int
    group_size: int
    mode: str


class KvShape(NamedTuple):
    """What one token adds to the KV cache, in values of all layers together.

    Attributes:
        full: Kept for the whole context.
        sliding: Kept for the last `window` tokens.
        window: In tokens.
    """

    full: int
    sliding: int
    window: int

    def values(self, tokens: int) -> int:
        """Values that a sequence of so many tokens keeps."""
        return self.full * tokens + self.sliding * min(tokens, self.window)


def own_context_tokens(config: Config) -> int | None:
    """The context that the weights were made for, or `None` if the file does not say."""
    for source in (config, _inner(config)):
        for key in CONTEXT_KEYS:
            found = source.get(key)
            if isinstance(found, int | float) and 1 <= found <= SANE_CONTEXT_TOKENS:
                return int(found)
    return None


def language_part(config: Config) -> Config:
    """The configuration of the language model; of a model that sees, too, its inner one."""
    return {**config, **_inner(config)}


def count(config: Config, *keys: str) -> int:
    """The first of the keys that holds a count; the largest where each layer has its own; or 0."""
    for key in keys:
        found = config.get(key)
        counts = found if isinstance(found, list) else [found]
        sane = [c for c in counts if type(c) is int and 0 < c < SANE_COUNT]
        if sane:
            return max(sane)
    return 0


def architecture(config: Config) -> str:
    """Such as ``qwen3``, or empty."""
    found = config.get("model_type")
    return found if isinstance(found, str) else ""


def quantisation(config: Config) -> Quantisation | None:
    """How the weights are quantised, or `None` if they are dense or the file does not say."""
    for key in ("quantization", "quantization_config"):
        found = config.get(key)
        if isinstance(found, dict) and (bits := count(found, "bits")):
            mode = found.get("mode")
            group_size = count(found, "group_size") or 64
            return Quantisation(bits, group_size, mode if isinstance(mode, str) else "affine")
    return None


def dtype(config: Config) -> str:
    """The float type of the weights, or empty."""
    for source in (config, _inner(config)):
        for key in ("torch_dtype", "dtype"):
            found = source.get(key)
            if isinstance(found, str):
                return found.removeprefix("torch.")
    return ""


def quantisation_name(config: Config) -> str:
    """What people call it: ``4bit``, ``mxfp4``, ``gptq``, ``bfloat16``; or empty."""
    if found := quantisation(config):
        return f"{found.bits}bit" if found.mode == "affine" else found.mode
    method = _dict(config, "quantization_config").get("quant_method")
    return method if isinstance(method, str) else dtype(config)


def stored_bits(config: Config) -> float:
    """Bits of a weight on disk, with its share of scales."""
    found = quantisation(config)
    if found is None:
        return 8 * DTYPE_BYTES.get(dtype(config), 2)
    scale_bits = 32 if found.mode == "affine" else 8
    return found.bits + scale_bits / found.group_size


def class_name(config: Config) -> str:
    """The class of transformers that the file names first, or empty."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return first if isinstance(first, str) else ""


def purpose(config: Config, name: str = "", *, has_modules: bool = False) -> MlxPurpose:
    """What the model can be asked for, as far as its files tell.

    Args:
        config: Its `config.json`.
        name: Of its directory. Rerankers that answer in words are of the same class as chat
            models, and only the name tells.
        has_modules: It has the `modules.json` of sentence-transformers.
    """
    named = class_name(config)
    if named.endswith("ForSequenceClassification"):
        return "reranking"
    if named.endswith("ForCausalLM") and "rerank" in name.lower():
        return "reranking"
    if has_modules or named.endswith(("Model", "ForMaskedLM")):
        return "embedding"
    return "generation"


def kv_shape(config: Config) -> KvShape:
    """What a token costs in a KV cache; nothing if the file does not tell."""
    part = language_part(config)
    per_layer = _kv_values_per_layer(part)
    full, sliding = _layer_counts(part)
    window = count(part, "sliding_window") or SANE_CONTEXT_TOKENS
    return KvShape(full * per_layer, sliding * per_layer, window)


def _kv_values_per_layer(part: Config) -> int:
    latent = count(part, "kv_lora_rank")
    if latent and architecture(part) not in EXPANDED_LATENT:
        return latent + count(part, "qk_rope_head_dim")
    heads = count(part, "num_attention_heads", "n_head", "n_heads")
    kv_heads = count(part, "num_key_value_heads", "n_head_kv", "num_kv_heads") or heads
    if latent:
        key_size = count(part, "qk_nope_head_dim") + count(part, "qk_rope_head_dim")
        return heads * (key_size + (count(part, "v_head_dim") or key_size))
    width = count(part, "hidden_size", "n_embd", "d_model")
    head_size = count(part, "head_dim") or (width // heads if heads else 0)
    return 2 * kv_heads * head_size


def _layer_counts(part: Config) -> tuple[int, int]:
    """Layers that keep the whole context, and layers that keep a window of it."""
    layers = count(part, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    types = part.get("layer_types")
    if isinstance(types, list) and types:
        sliding = types.count("sliding_attention")
        without = sum(1 for kind in types if isinstance(kind, str) and kind in STATE_LAYERS)
        return len(types) - sliding - without, sliding
    if count(part, "linear_num_value_heads"):
        every = count(part, "full_attention_interval") or DEFAULT_FULL_ATTENTION_INTERVAL
        return layers // every, 0
    pattern = count(part, "sliding_window_pattern")
    if pattern > 1 and count(part, "sliding_window"):
        return layers // pattern, layers - layers // pattern
    return layers, 0


def _inner(config: Config) -> Config:
    return _dict(config, "text_config")


def _dict(config: Config, key: str) -> Config:
    found = config.get(key)
    return found if isinstance(found, dict) else {}
