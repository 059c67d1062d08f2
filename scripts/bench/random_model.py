"""A Llama of a given shape with random weights: speed does not depend on what the weights say.

    python -m scripts.bench.random_model TOKENIZER_DIR TARGET_DIR --shape 1b [--bits 4]

The tokenizer and its chat template are copied from an existing model directory.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

# hidden size, layers, heads, KV heads, feed-forward size: Llama 3.2 1B, Llama 3.1 8B, and one that
# loads at once.
SHAPES = {
    "1b": (2048, 16, 32, 8, 8192),
    "8b": (4096, 32, 32, 8, 14336),
    "tiny": (64, 2, 4, 2, 128),
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def make_config(shape: str, source: dict[str, Any]) -> dict[str, Any]:
    """A config.json of the shape with the tokenizer's vocabulary."""
    hidden, layers, heads, kv_heads, feed_forward = SHAPES[shape]
    kept = ("vocab_size", "bos_token_id", "eos_token_id")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": feed_forward,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        **{key: source[key] for key in kept},
    }


def write_model(source: Path, target: Path, *, shape: str, bits: int | None) -> None:
    """Write the model directory, weights in bfloat16 or quantised in groups of 64."""
    config = make_config(shape, json.loads((source / "config.json").read_text()))
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if bits is not None:
        quantize(model, group_size=64, bits=bits)
        config["quantization"] = {"group_size": 64, "bits": bits}
    target.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    (target / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--bits", type=int)
    options = parser.parse_args()
    write_model(options.source, options.target, shape=options.shape, bits=options.bits)


if __name__ == "__main__":
    main()
