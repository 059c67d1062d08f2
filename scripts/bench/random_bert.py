"""A cross-encoder of a given shape with random weights: speed does not depend on what they say.

    python -m scripts.bench.random_bert EMBEDDER_DIR TARGET_DIR

The shape and the tokenizer are those of an existing BERT model directory; the head gives one score.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Of a trained model's weights, so that nothing overflows on the way through the layers.
DEVIATION = 0.02


def write_cross_encoder(source: Path, target: Path) -> Path:
    """Write the model directory, weights in float32; returns `target`."""
    config = json.loads((source / "config.json").read_text())
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    config.pop("_name_or_path", None)
    target.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    weights = {
        name: _values(name, mx.random.normal(shape)) for name, shape in _shapes(config).items()
    }
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)
    return target


def _values(name: str, noise: mx.array) -> mx.array:
    values = DEVIATION * noise  # of the tensor's own shape, float32
    return values + 1.0 if name.endswith("LayerNorm.weight") else values


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensors of a BERT with a head, under transformers' names."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    tables = {
        "word_embeddings": config["vocab_size"],
        "position_embeddings": config["max_position_embeddings"],
        "token_type_embeddings": config["type_vocab_size"],
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"bert.embeddings.{name}.weight": (rows, width) for name, rows in tables.items()
    }
    shapes |= _with_bias("bert.embeddings.LayerNorm", width)
    for layer in range(config["num_hidden_layers"]):
        here = f"bert.encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _with_bias(f"{here}.attention.{name}", width, width)
        shapes |= _with_bias(f"{here}.intermediate.dense", inner, width)
        shapes |= _with_bias(f"{here}.output.dense", width, inner)
        for name in ("attention.output", "output"):
            shapes |= _with_bias(f"{here}.{name}.LayerNorm", width)
    shapes |= _with_bias("bert.pooler.dense", width, width)
    return shapes | _with_bias("classifier", 1, width)


def _with_bias(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    write_cross_encoder(options.source, options.target)


if __name__ == "__main__":
    main()
