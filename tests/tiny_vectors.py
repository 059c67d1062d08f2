"""Random models that answer with numbers, in directories, small enough for any test.

It knows no engine: it writes the files that models of the Hugging Face format have. The same
weights come out every time.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Config = dict[str, Any]
Weights = dict[str, NDArray[np.float32]]

WIDTH, HEADS, LAYERS, INNER = 32, 4, 2, 48
POSITIONS = 64
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "hen", "and", "heron", "hello", "on", "an", "end", "in", "nine", "then")
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
SIGNS = ".,;:!?"
CLASSES = {"bert": "Bert", "xlm-roberta": "XLMRoberta", "modernbert": "ModernBert"}


def build_tiny_bert(path: Path) -> Path:
    """A BERT embedder of sentence-transformers' kind: mean pooling, then normalised."""
    tokenizer = bert_tokenizer()
    config = bert_config(tokenizer.get_vocab_size())
    write_model(path, config, bert_weights(config), tokenizer)
    write_modules(path, pooling="mean", is_normalised=True, max_tokens=48)
    return path


def build_tiny_xlm_roberta(path: Path) -> Path:
    """An XLM-RoBERTa embedder of the first token; its positions begin after the padding id."""
    tokenizer = roberta_tokenizer()
    config = roberta_config(tokenizer.get_vocab_size())
    write_model(path, config, bert_weights(config, prefix="roberta.", seed=2), tokenizer)
    write_modules(path, pooling="cls", is_normalised=True, max_tokens=None)
    return path


def build_tiny_modernbert(path: Path) -> Path:
    """A ModernBERT embedder without `modules.json`, with local layers narrower than its rows."""
    tokenizer = bert_tokenizer()
    config = modernbert_config(tokenizer.get_vocab_size())
    write_model(path, config, modernbert_weights(config), tokenizer)
    return path


def build_tiny_cross_encoder(path: Path, kind: str, labels: int = 1) -> Path:
    """A model that scores pairs: ``bert``, ``xlm-roberta`` or ``modernbert``."""
    tokenizer = roberta_tokenizer() if kind == "xlm-roberta" else bert_tokenizer()
    vocabulary = tokenizer.get_vocab_size()
    heads = {
        "bert": linear("bert.pooler.dense", WIDTH, WIDTH) | linear("classifier", labels, WIDTH),
        "xlm-roberta": linear("classifier.dense", WIDTH, WIDTH)
        | linear("classifier.out_proj", labels, WIDTH),
        "modernbert": {"head.dense.weight": (WIDTH, WIDTH), "head.norm.weight": (WIDTH,)}
        | linear("classifier", labels, WIDTH),
    }
    if kind == "modernbert":
        config = modernbert_config(vocabulary)
        weights = modernbert_weights(config, prefix="model.", seed=5)
    elif kind == "bert":
        config = bert_config(vocabulary)
        weights = bert_weights(config, prefix="bert.", seed=6)
    else:
        config = roberta_config(vocabulary)
        weights = bert_weights(config, prefix="roberta.", seed=7)
    config["architectures"] = [f"{CLASSES[kind]}ForSequenceClassification"]
    write_model(path, config, weights | random_weights(heads[kind], seed=8), tokenizer)
    return path


def bert_tokenizer() -> Tokenizer:
    """A lower-casing WordPiece of some hundred pieces, with the templates of BERT."""
    return _word_pieces(
        BERT_SPECIAL,
        unknown="[UNK]",
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        named=("[CLS]", "[SEP]"),
    )


def _word_pieces(
    special: Sequence[str], *, unknown: str, single: str, pair: str, named: Sequence[str]
) -> Tokenizer:
    """The words below `special` tokens; the templates use those `named`."""
    pieces = [*special, *WORDS, *ALPHABET, *(f"##{sign}" for sign in ALPHABET), *SIGNS]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, vocabulary[name]) for name in named]
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def bert_config(vocabulary: int) -> Config:
    """`config.json` of the tiny BERT."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }


def bert_weights(config: Mapping[str, Any], *, prefix: str = "", seed: int = 1) -> Weights:
    """Tensors of a BERT or RoBERTa encoder, under transformers' names.

    Args:
        config: Its sizes.
        prefix: Before every name, such as ``bert.``.
        seed: Of the random numbers.
    """
    width, inner = config["hidden_size"], config["intermediate_size"]
    tables = {"word": "vocab_size", "position": "max_position_embeddings"}
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (config[key], width)
        for name, key in (tables | {"token_type": "type_vocab_size"}).items()
    }
    shapes |= _norm("embeddings.LayerNorm", width)
    for layer in range(config["num_hidden_layers"]):
        here = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes |= linear(f"{here}.attention.self.{name}", width, width)
        shapes |= linear(f"{here}.attention.output.dense", width, width)
        shapes |= _norm(f"{here}.attention.output.LayerNorm", width)
        shapes |= linear(f"{here}.intermediate.dense", inner, width)
        shapes |= linear(f"{here}.output.dense", width, inner)
        shapes |= _norm(f"{here}.output.LayerNorm", width)
    return random_weights({prefix + name: shape for name, shape in shapes.items()}, seed=seed)


def linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def random_weights(shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> Weights:
    """Numbers large enough that every token, position and layer matters in the result."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        values = generator.standard_normal(shape)
        if "norm" in name.lower():
            values = (1.0 if name.endswith("weight") else 0.0) + 0.2 * values
        elif len(shape) == 2 and "embeddings" not in name:
            values *= 1.5 / shape[1] ** 0.5
        elif len(shape) == 1:
            values *= 0.2
        weights[name] = values.astype(np.float32)
    return weights


def write_model(path: Path, config: Config, weights: Weights, tokenizer: Tokenizer) -> None:
    """Write the configuration, the weights and the tokenizer to `path`, made if need be."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save(str(path / "tokenizer.json"))
    arrays = {name: mx.array(values) for name, values in weights.items()}
    mx.save_safetensors(str(path / "model.safetensors"), arrays, metadata={"format": "pt"})


def write_modules(path: Path, *, pooling: str, is_normalised: bool, max_tokens: int | None) -> None:
    """Write the files of sentence-transformers.

    Args:
        path: The model's directory.
        pooling: ``mean``, ``cls``, ``lasttoken``, ``max`` or ``mean_sqrt_len``.
        is_normalised: Put a module at the end that scales vectors to length 1.
        max_tokens: The longest row, or `None` to leave that file out.
    """
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    names |= {"mean_sqrt_len": "mean_sqrt_len_tokens", "lasttoken": "lasttoken"}
    kinds = ["Transformer", "Pooling", *(["Normalize"] if is_normalised else [])]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    flags = {f"pooling_mode_{name}": key == pooling for key, name in names.items()}
    (path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(flags), encoding="utf-8")
    if max_tokens is not None:
        limits = {"max_seq_length": max_tokens, "do_lower_case": False}
        (path / "sentence_bert_config.json").write_text(json.dumps(limits), encoding="utf-8")


def roberta_tokenizer() -> Tokenizer:
    """The words of the tiny BERT with XLM-RoBERTa's special tokens and templates."""
    return _word_pieces(
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        unknown="<unk>",
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        named=("<s>", "</s>"),
    )


def roberta_config(vocabulary: int) -> Config:
    """`config.json` of the tiny XLM-RoBERTa."""
    changes = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS + 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }
    return bert_config(vocabulary) | changes


def modernbert_config(vocabulary: int) -> Config:
    """`config.json` of the tiny ModernBERT: layers 0 and 3 are global."""
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "classifier_pooling": "mean",
        "classifier_activation": "gelu",
        "global_attn_every_n_layers": 3,
        "local_attention": 8,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": POSITIONS,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
    }


def modernbert_weights(config: Mapping[str, Any], *, prefix: str = "", seed: int = 3) -> Weights:
    """Tensors of a ModernBERT encoder without biases, under transformers' names."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.tok_embeddings.weight": (config["vocab_size"], width),
        "embeddings.norm.weight": (width,),
        "final_norm.weight": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        here = f"layers.{layer}"
        if layer:
            shapes[f"{here}.attn_norm.weight"] = (width,)
        shapes[f"{here}.attn.Wqkv.weight"] = (3 * width, width)
        shapes[f"{here}.attn.Wo.weight"] = (width, width)
        shapes[f"{here}.mlp_norm.weight"] = (width,)
        shapes[f"{here}.mlp.Wi.weight"] = (2 * inner, width)
        shapes[f"{here}.mlp.Wo.weight"] = (width, inner)
    return random_weights({prefix + name: shape for name, shape in shapes.items()}, seed=seed)


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
