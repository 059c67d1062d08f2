"""Tiny GGUF files that answer with numbers: a Qwen3 for vectors or for yes and no, and a BERT pair.

The Qwen3 keeps its weights, so that a test can compute with them; the BERT cross-encoder is a
directory that `bert_gguf` converts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, PoolingType, TokenType

from tests.bert_gguf import write_bert_gguf
from tests.tiny_gguf import CONTROLS, MERGES, TOKENS
from tests.tiny_vectors import build_tiny_cross_encoder, random_weights

Array = npt.NDArray[np.float32]

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, WIDE = 64, 2, 4, 2, 16, 128
ROPE_BASE, NORM_EPSILON = 10_000.0, 1e-6
T5_BUCKETS = 32
END = TOKENS.index("<|endoftext|>")
RERANK_TEMPLATE = (
    "<|im_start|>system\nyes or no?<|im_end|>\n<|im_start|>user\n"
    "Query: {query}\nDocument: {document}<|im_end|>\n<|im_start|>assistant\n"
)


def _weights() -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "output_norm.weight": (WIDTH,),
        "cls.output.weight": (2, WIDTH),
    }
    for layer in range(LAYERS):
        here = f"blk.{layer}"
        shapes |= {
            f"{here}.attn_norm.weight": (WIDTH,),
            f"{here}.attn_q.weight": (HEADS * HEAD_SIZE, WIDTH),
            f"{here}.attn_q_norm.weight": (HEAD_SIZE,),
            f"{here}.attn_k.weight": (KV_HEADS * HEAD_SIZE, WIDTH),
            f"{here}.attn_k_norm.weight": (HEAD_SIZE,),
            f"{here}.attn_v.weight": (KV_HEADS * HEAD_SIZE, WIDTH),
            f"{here}.attn_output.weight": (WIDTH, HEADS * HEAD_SIZE),
            f"{here}.ffn_norm.weight": (WIDTH,),
            f"{here}.ffn_gate.weight": (WIDE, WIDTH),
            f"{here}.ffn_up.weight": (WIDE, WIDTH),
            f"{here}.ffn_down.weight": (WIDTH, WIDE),
        }
    return random_weights(shapes, seed=3)


def _add_vocabulary(writer: GGUFWriter) -> None:
    """Byte-level tokens, and an end token after each text."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    normal = len(TOKENS) - len(CONTROLS)
    writer.add_token_types([TokenType.CONTROL] * len(CONTROLS) + [TokenType.NORMAL] * normal)
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(value=False)
    writer.add_add_eos_token(value=True)


@dataclass(frozen=True)
class TinyQwen3:
    """A Qwen3 of 2 layers, and what its file says of its purpose."""

    weights: dict[str, Array] = field(default_factory=_weights)
    pooling: PoolingType | None = PoolingType.LAST
    labels: tuple[str, ...] = ()
    template: str = ""
    context_tokens: int = 256

    def write(self, path: Path) -> Path:
        """Write the file; the classifier is there where labels are."""
        writer = GGUFWriter(path, "qwen3")
        writer.add_context_length(self.context_tokens)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(WIDE)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_key_length(HEAD_SIZE)
        writer.add_value_length(HEAD_SIZE)
        writer.add_layer_norm_rms_eps(NORM_EPSILON)
        writer.add_rope_freq_base(ROPE_BASE)
        if self.pooling is not None:
            writer.add_pooling_type(self.pooling)
        if self.labels:
            writer.add_array("qwen3.classifier.output_labels", list(self.labels))
        _add_vocabulary(writer)
        if self.template:
            writer.add_chat_template([{"name": "rerank", "template": self.template}])
        for name, values in self.weights.items():
            if name != "cls.output.weight":
                writer.add_tensor(name, values)
            elif self.labels:
                writer.add_tensor(name, values[: len(self.labels)])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def tiny_reranker() -> TinyQwen3:
    """One that says yes or no, as llama.cpp's converter makes it of Qwen3-Reranker."""
    return TinyQwen3(pooling=PoolingType.RANK, labels=("yes", "no"), template=RERANK_TEMPLATE)


def write_cross_encoder(path: Path) -> Path:
    """A BERT that scores pairs, as a GGUF file beside its directory."""
    directory = build_tiny_cross_encoder(path.with_suffix(""), "bert")
    return write_bert_gguf(directory, path, PoolingType.RANK)


def write_t5_encoder(path: Path) -> Path:
    """The encoder of a T5, which llama.cpp computes by another call than every other model."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "enc.output_norm.weight": (WIDTH,),
        "enc.blk.0.attn_rel_b.weight": (T5_BUCKETS, HEADS),
    }
    for layer in range(LAYERS):
        here = f"enc.blk.{layer}"
        shapes |= {f"{here}.attn_{part}.weight": (WIDTH, WIDTH) for part in "qkvo"}
        shapes |= {f"{here}.{part}_norm.weight": (WIDTH,) for part in ("attn", "ffn")}
        shapes[f"{here}.ffn_up.weight"] = (WIDE, WIDTH)
        shapes[f"{here}.ffn_down.weight"] = (WIDTH, WIDE)
    writer = GGUFWriter(path, "t5encoder")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_relative_attn_buckets_count(T5_BUCKETS)
    _add_vocabulary(writer)
    for name, values in random_weights(shapes, seed=4).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
