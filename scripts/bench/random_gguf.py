"""A Llama of a given shape with random weights as a GGUF file, Q8_0.

    python -m scripts.bench.random_gguf SOURCE.gguf TARGET.gguf --shape small

The vocabulary and the chat template are copied from an existing file of a Llama.
"""

import argparse
from collections.abc import Container
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quantize
from gguf.constants import LlamaFileType

from scripts.bench.shapes import CONTEXT_TOKENS, SHAPES, Shape

ARCHITECTURE = "llama"
NOT_COPIED = {"general.architecture", "general.file_type"}
# Q8_0 stores matrices in blocks of 32 columns.
KIND = GGMLQuantizationType.Q8_0


def copy_metadata(reader: GGUFReader, writer: GGUFWriter, left_out: Container[str]) -> None:
    """Give the writer all keys of a file but the reader's own and those left out."""
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in left_out:
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])


def write_random(source: Path, target: Path, shape: Shape, context_tokens: int) -> None:
    """Write a file of the shape with the vocabulary of the source."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, ARCHITECTURE)
    own = {key for key in reader.fields if key.startswith(f"{ARCHITECTURE}.")}
    copy_metadata(reader, writer, NOT_COPIED | own)
    vocabulary_size = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    writer.add_vocab_size(vocabulary_size)
    random = np.random.default_rng(0)
    for name, (rows, columns) in _matrices(shape, vocabulary_size).items():
        values = random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", quantize(values, KIND), raw_dtype=KIND)
    for name in _norms(shape):
        writer.add_tensor(f"{name}.weight", np.ones(shape.hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrices(shape: Shape, vocabulary_size: int) -> dict[str, tuple[int, int]]:
    """Rows and columns; the output projection is the embedding."""
    hidden, wide = shape.hidden, shape.feed_forward
    kv = hidden // shape.heads * shape.kv_heads
    sizes = {"token_embd": (vocabulary_size, hidden)}
    for layer in range(shape.layers):
        sizes |= {
            f"blk.{layer}.attn_q": (hidden, hidden),
            f"blk.{layer}.attn_k": (kv, hidden),
            f"blk.{layer}.attn_v": (kv, hidden),
            f"blk.{layer}.attn_output": (hidden, hidden),
            f"blk.{layer}.ffn_gate": (wide, hidden),
            f"blk.{layer}.ffn_up": (wide, hidden),
            f"blk.{layer}.ffn_down": (hidden, wide),
        }
    return sizes


def _norms(shape: Shape) -> list[str]:
    kinds = ("attn_norm", "ffn_norm")
    return ["output_norm", *(f"blk.{n}.{kind}" for n in range(shape.layers) for kind in kinds)]


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS, help="most tokens")
    options = parser.parse_args()
    write_random(options.source, options.target, SHAPES[options.shape], options.context)


if __name__ == "__main__":
    main()
