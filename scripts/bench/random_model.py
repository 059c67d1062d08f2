"""A Llama of a given shape with random weights: speed does not depend on what the weights say.

    python -m scripts.bench.random_model TOKENIZER_DIR TARGET_DIR --shape 1b [--bits 4]
    python -m scripts.bench.random_model TOKENIZER_DIR TARGET_DIR --shape small --dtype float32

The tokenizer and its chat template are copied from an existing model directory. The weights are
made by the device, one after the other, so that 8B takes seconds where there is a GPU.
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

from scripts.bench.shapes import CONTEXT_TOKENS, SHAPES

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


def make_config(shape: str, source: dict[str, Any], context_tokens: int) -> dict[str, Any]:
    """A config.json of the shape with the tokenizer's vocabulary."""
    size = SHAPES[shape]
    kept = ("vocab_size", "bos_token_id", "eos_token_id")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "intermediate_size": size.feed_forward,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "max_position_embeddings": context_tokens,
        "tie_word_embeddings": True,
        **{key: source[key] for key in kept},
    }


def write_model(
    source: Path,
    target: Path,
    *,
    shape: str,
    bits: int | None = None,
    dtype: str = "bfloat16",
    context_tokens: int = CONTEXT_TOKENS,
) -> None:
    """Write the model directory, the weights in one type or quantised in groups of 64."""
    found = json.loads((source / "config.json").read_text())
    config = make_config(shape, found, context_tokens)
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(DTYPES[dtype])
    config["torch_dtype"] = dtype
    if bits is not None:
        quantize(model, group_size=64, bits=bits)
        config["quantization"] = {"group_size": 64, "bits": bits}
    target.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    for values in weights.values():
        mx.eval(values)  # one at a time, or all would be there in float32 at once
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    (target / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--bits", type=int)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS, help="most tokens")
    options = parser.parse_args()
    write_model(
        options.source,
        options.target,
        shape=options.shape,
        bits=options.bits,
        dtype=options.dtype,
        context_tokens=options.context,
    )


if __name__ == "__main__":
    main()
