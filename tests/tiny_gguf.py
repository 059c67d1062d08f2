"""Tiny GGUF files for tests: a random llama of 2 layers and width 64, and a vocabulary alone.

`TinyLlama` keeps the weights as Hugging Face orders them, so that a test can compare what a
converter gives back with what went in.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from tokenizers import pre_tokenizers

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, WIDE = 64, 2, 4, 2, 16, 128
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
TOKENS = [
    *CONTROLS,
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Array = npt.NDArray[np.float32]


def _weights(*, tied: bool) -> dict[str, Array]:
    random = np.random.default_rng(7)
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), WIDTH),
        "output_norm": (WIDTH,),
    }
    if not tied:
        sizes["output"] = (len(TOKENS), WIDTH)
    for layer in range(LAYERS):
        sizes |= {
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.attn_q": (HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_k": (KV_HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_v": (KV_HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_output": (WIDTH, HEADS * HEAD_SIZE),
            f"blk.{layer}.ffn_norm": (WIDTH,),
            f"blk.{layer}.ffn_gate": (WIDE, WIDTH),
            f"blk.{layer}.ffn_up": (WIDE, WIDTH),
            f"blk.{layer}.ffn_down": (WIDTH, WIDE),
        }
    return {
        f"{name}.weight": random.normal(0, 0.1, size).astype(np.float32)
        for name, size in sizes.items()
    }


@dataclass(frozen=True)
class TinyLlama:
    """The model, and the few things about its file that tests vary."""

    weights: dict[str, Array] = field(default_factory=lambda: _weights(tied=True))
    architecture: str = "llama"
    pre: str = "smollm"
    quantized: bool = False
    heads: int = HEADS
    kv_heads: int = KV_HEADS

    def untied(self) -> "TinyLlama":
        """With an output projection of its own."""
        return replace(self, weights=_weights(tied=False))

    def with_wide_heads(self) -> "TinyLlama":
        """Half as many heads, of twice the size: 32, which a block of 8-bit values has."""
        return replace(self, heads=HEADS // 2, kv_heads=KV_HEADS // 2)

    def without(self, name: str) -> "TinyLlama":
        """Lacking one tensor."""
        return replace(self, weights={k: v for k, v in self.weights.items() if k != name})

    def with_tensor(self, name: str, values: Array) -> "TinyLlama":
        """With one tensor added or exchanged."""
        return replace(self, weights=self.weights | {name: values})

    def write(self, path: Path) -> Path:
        """Write the GGUF file, its query and key rows interleaved as llama.cpp stores them."""
        writer = GGUFWriter(path, self.architecture)
        self._add_metadata(writer)
        for name, values in self.weights.items():
            stored = values
            if ".attn_q." in name:
                stored = _interleave(values, self.heads)
            if ".attn_k." in name:
                stored = _interleave(values, self.kv_heads)
            if self.quantized and stored.ndim > 1:
                kind = GGMLQuantizationType.Q8_0
                writer.add_tensor(name, quantize(stored, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _add_metadata(self, writer: GGUFWriter) -> None:
        writer.add_context_length(512)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(WIDE)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(TOKENS)
        normal = len(TOKENS) - len(CONTROLS)
        writer.add_token_types([TokenType.CONTROL] * len(CONTROLS) + [TokenType.NORMAL] * normal)
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(TEMPLATE)


def _interleave(values: Array, heads: int) -> Array:
    """What llama.cpp's conversion does to the rows of query and key projections."""
    rows, columns = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


# A SentencePiece vocabulary with a byte for everything and scores that join these words.
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
WORDS = ["▁", "h", "e", "l", "o", "w", "he", "ll", "hell", "hello", "▁hello", "▁w", "<tool>"]


def write_sentencepiece(path: Path, **metadata: str | bool) -> Path:
    """A vocabulary without weights, tokenizer model "llama", and further keys of its header.

    Args:
        path: Where to write it.
        metadata: Keys below ``tokenizer.``, with ``__`` for each dot.
    """
    writer = GGUFWriter(path, "llama")
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.NORMAL] * (len(WORDS) - 1) + [TokenType.USER_DEFINED]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*PIECES, *WORDS])
    writer.add_token_scores([0.0] * len(PIECES) + [-1.0 / len(word) for word in WORDS])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in metadata.items():
        key = "tokenizer." + name.replace("__", ".")
        if isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
