"""Tiny random GGUF models whose state is not just keys and values of every token.

One has layers with a sliding window, one has recurrent layers only. Their vocabulary is that of
`tests.tiny_gguf`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, TokenType

from tests.tiny_gguf import CONTROLS, MERGES, TOKENS

WIDTH, LAYERS, HEADS, HEAD_SIZE, WIDE = 64, 2, 4, 16, 128
WINDOW_TOKENS = 32
INNER, STATE, CONVOLUTION, RANK = 128, 8, 4, 4

Weights = dict[str, npt.NDArray[np.float32]]


def write_windowed(path: Path) -> Path:
    """Gemma 2's architecture: every second layer looks back `WINDOW_TOKENS` tokens."""
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        sizes |= {
            f"blk.{layer}.attn_q": (HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_k": (HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_v": (HEADS * HEAD_SIZE, WIDTH),
            f"blk.{layer}.attn_output": (WIDTH, HEADS * HEAD_SIZE),
            f"blk.{layer}.ffn_gate": (WIDE, WIDTH),
            f"blk.{layer}.ffn_up": (WIDE, WIDTH),
            f"blk.{layer}.ffn_down": (WIDTH, WIDE),
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.post_attention_norm": (WIDTH,),
            f"blk.{layer}.ffn_norm": (WIDTH,),
            f"blk.{layer}.post_ffw_norm": (WIDTH,),
        }
    writer = _begin(path, "gemma2")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_feed_forward_length(WIDE)
    writer.add_sliding_window(WINDOW_TOKENS)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    return _end(writer, path, _random(sizes))


def write_recurrent(path: Path) -> Path:
    """Mamba's architecture."""
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        sizes |= {
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.ssm_in": (2 * INNER, WIDTH),
            f"blk.{layer}.ssm_conv1d": (INNER, CONVOLUTION),
            f"blk.{layer}.ssm_x": (RANK + 2 * STATE, INNER),
            f"blk.{layer}.ssm_dt": (INNER, RANK),
            f"blk.{layer}.ssm_out": (WIDTH, INNER),
        }
    weights = _random(sizes)
    for layer in range(LAYERS):
        decay = -np.tile(np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1))
        weights |= {
            f"blk.{layer}.ssm_a": decay,
            f"blk.{layer}.ssm_d": np.ones(INNER, dtype=np.float32),
            f"blk.{layer}.ssm_conv1d.bias": np.zeros(INNER, dtype=np.float32),
            f"blk.{layer}.ssm_dt.bias": np.full(INNER, -2.0, dtype=np.float32),
        }
    writer = _begin(path, "mamba")
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(CONVOLUTION)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    return _end(writer, path, weights)


def _random(sizes: dict[str, tuple[int, ...]]) -> Weights:
    random = np.random.default_rng(11)
    sizes |= {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    return {
        f"{name}.weight": random.normal(0, 0.2, size).astype(np.float32)
        for name, size in sizes.items()
    }


def _begin(path: Path, architecture: str) -> GGUFWriter:
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    normal = len(TOKENS) - len(CONTROLS)
    writer.add_token_types([TokenType.CONTROL] * len(CONTROLS) + [TokenType.NORMAL] * normal)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return writer


def _end(writer: GGUFWriter, path: Path, weights: Weights) -> Path:
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
