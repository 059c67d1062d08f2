"""A random two-layer Llama in a directory, for every test that needs speed and no sense.

It knows no engine: it writes the files a model of the Hugging Face format has. The same files come
out every time.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MERGED = [
    "th",
    "he",
    "in",
    "er",
    "an",
    "re",
    "on",
    "at",
    "en",
    "nd",
    "ing",
    "the",
    "and",
    "hel",
    "lo",
]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('there is no role ' + message['role']) }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT_TOKENS = 512


def build_tiny_llama(path: Path, **options: Any) -> Path:
    """Write the model to `path`, which is made if need be; returns `path`.

    Args:
        path: Of the directory.
        options: Further fields of `config.json`.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tiny_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    config = _config(tokenizer.get_vocab_size()) | options
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [tokenizer.token_to_id("<|im_end|>")]},
        "tokenizer_config.json": {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "chat_template": TEMPLATE,
            "model_max_length": CONTEXT_TOKENS,
        },
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    mx.save_safetensors(
        str(path / "model.safetensors"), _weights(config), metadata={"format": "mlx"}
    )
    return path


def build_tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of 274 tokens: bytes, a few merges, three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *MERGED])}
    merges = []
    for token in MERGED:
        split = next(i for i in range(len(token) - 1, 0, -1) if token[:i] in vocabulary)
        merges.append((token[:split], token[split:]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "eos_token_id": vocabulary - 1,
    }


def _weights(config: dict[str, object]) -> dict[str, mx.array]:
    """Wide enough that greedy text depends on every token before it."""
    shapes: Any = tree_flatten(Model(ModelArgs.from_dict(config)).parameters())
    weights = {}
    for index, (name, value) in enumerate(shapes):
        if value.ndim == 1:
            weights[name] = mx.ones(value.shape)
        else:
            key = mx.random.key(index)
            weights[name] = mx.random.normal(value.shape, key=key) * (3 / value.shape[-1] ** 0.5)
    return weights
