"""Tiny models with random weights, of every format that is installed, for storms to break.

A byte is about a token, so that the length of a prompt is that of its text. What they say makes no
sense.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# llama.cpp refuses a vocabulary without any.
MERGE = ("h", "e")
CONTEXT_TOKENS = 8192
WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 64, 2, 4, 2, 128


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def build_mlx(path: Path) -> Path:
    """Write a model directory of the Hugging Face format; returns `path`."""
    from scripts.bench.random_model import write_model  # noqa: PLC0415  # needs MLX

    source = path.with_name(f"{path.name}.tokenizer")
    source.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(tokens)}, merges=[MERGE]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.save(str(source / "tokenizer.json"))
    end_id = tokens.index("<|im_end|>")
    documents = {
        "config.json": {"vocab_size": len(tokens), "bos_token_id": 1, "eos_token_id": end_id},
        "generation_config.json": {"eos_token_id": [end_id]},
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "chat_template": TEMPLATE},
    }
    for name, document in documents.items():
        (source / name).write_text(json.dumps(document), encoding="utf-8")
    write_model(source, path, shape="tiny", bits=None)
    return path


def build_gguf(path: Path) -> Path:
    """Write a GGUF file; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer)
    random = np.random.default_rng(0)
    for name, shape in tensor_shapes():
        values = random.normal(0, 0.1, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> list[str]:
    """The special tokens, one token for each byte, and the result of the one merge."""
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(MERGE)]


def tensor_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a llama of this size, by llama.cpp's names."""
    head = WIDTH // HEADS
    yield "token_embd", (len(vocabulary()), WIDTH)
    yield "output_norm", (WIDTH,)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}", (WIDTH,)
        for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"blk.{layer}.attn_{name}", (rows * head, WIDTH)
        yield f"blk.{layer}.attn_output", (WIDTH, HEADS * head)
        for name in ("ffn_gate", "ffn_up"):
            yield f"blk.{layer}.{name}", (FEED_FORWARD, WIDTH)
        yield f"blk.{layer}.ffn_down", (WIDTH, FEED_FORWARD)


def _add_metadata(writer: GGUFWriter) -> None:
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = vocabulary()
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
