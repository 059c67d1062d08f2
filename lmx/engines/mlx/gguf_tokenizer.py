"""The tokenizer inside a GGUF file, written as Hugging Face's `tokenizer.json`.

Byte-level BPE only. How text is split before merging is a name in the file, not a rule, so each
supported name stands here with its rule; a name that is not here is refused, since a guess would
give a model that reads slightly wrong tokens.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from lmx.engines.mlx.gguf_source import GgufSource
from lmx.errors import CorruptModel, UnsupportedModel

# Token types of GGUF (llama.h, enum llama_token_type).
CONTROL, USER_DEFINED = 3, 4
# Control tokens that end a turn although the file names only one end id.
TURN_ENDS = frozenset({"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>"})
# Rules of llama.cpp, llama-vocab.cpp, for `tokenizer.ggml.pre = default`.
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
DEFAULT_RULES = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")


def end_token_ids(source: GgufSource) -> list[int]:
    """Ids that end generation: the file's own first, then well-known ends of a turn."""
    tokens = source.texts("tokenizer.ggml.tokens")
    types = source.integers("tokenizer.ggml.token_type")
    ids = [source.integer("tokenizer.ggml.eos_token_id")]
    more = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    ids += [source.integer(key) for key in more if source.has(key)]
    controls = (i for i, kind in enumerate(types) if kind == CONTROL)
    ids += [i for i in controls if tokens[i] in TURN_ENDS]
    return list(dict.fromkeys(ids))


def write_tokenizer(source: GgufSource, directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the chat template within.

    Raises:
        UnsupportedModel: No byte-level BPE, or a way of splitting text that is unknown here.
        CorruptModel: Vocabulary and merges contradict each other.
    """
    tokenizer = build_tokenizer(source)
    tokenizer.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": source.flag("tokenizer.ggml.add_bos_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.integer("llama.context_length"),
    }
    tokens = source.texts("tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for short, long in names.items():
        key = f"tokenizer.ggml.{long}_token_id"
        if source.has(key):
            config[f"{short}_token"] = _token(tokens, source.integer(key))
    if source.has("tokenizer.chat_template"):
        config["chat_template"] = source.text("tokenizer.chat_template")
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def build_tokenizer(source: GgufSource) -> Tokenizer:
    """The tokenizer itself; errors as `write_tokenizer`."""
    kind = source.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedModel(f"tokenizer model {kind!r} is not supported, only 'gpt2'")
    tokens = source.texts("tokenizer.ggml.tokens")
    types = source.integers("tokenizer.ggml.token_type")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(types) != len(tokens):
        raise CorruptModel(f"the vocabulary of {source.path.name} contradicts itself")
    merges = _merges(source, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _splitter(source.text("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    pairs = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in pairs if kind == CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t, kind in pairs if kind == USER_DEFINED]
    )
    return tokenizer


def _splitter(name: str) -> pre_tokenizers.PreTokenizer:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return gpt2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name == "default":
        splits = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in DEFAULT_RULES]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, to_bytes])
    raise UnsupportedModel(
        f"pre-tokenizer {name!r} is not supported, only 'smollm', 'gpt-2' and 'default'"
    )


def _merges(source: GgufSource, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for line in source.texts("tokenizer.ggml.merges"):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise CorruptModel(f"{source.path.name} merges {line!r} outside its vocabulary")
        merges.append((left, right))
    return merges


def _token(tokens: list[str], token_id: int) -> str:
    if not 0 <= token_id < len(tokens):
        raise CorruptModel(f"token id {token_id} lies outside the vocabulary")
    return tokens[token_id]
