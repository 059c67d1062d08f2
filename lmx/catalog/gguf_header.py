"""What the head of a GGUF file says about the model in it. Sans-IO; llama.cpp is not needed.

Turns `lmx.catalog.gguf_layout`'s values into typed facts. It decides what a model is for, not
whether it can be served.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from lmx.catalog.gguf_layout import (
    Layout,
    NeedMore,
    Tensor,
    Value,
    read_first_values,
    read_layout,
)
from lmx.catalog.gguf_types import FILE_TYPE_GUESSED, FILE_TYPES
from lmx.errors import CorruptModel

Purpose = Literal["generation", "embedding", "reranking", "other"]
Pooling = Literal["none", "mean", "cls", "last", "rank"]

# `llama_pooling_type` of llama.h.
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")
# Architectures of llama.cpp (llama-arch.cpp) that give vectors and no text.
ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
# Those of them that llama.cpp gives a cache of keys and values all the same.
CACHED_ENCODERS = frozenset({"llama-embed"})
# Those that are a part of a model or no language model at all.
NO_MODELS = frozenset({"clip", "wavtokenizer-dec"})
ENCODER_DECODERS = frozenset({"t5"})
KV_BYTES_PER_VALUE = 2  # F16, llama.cpp's default

MAX_UINT32 = 2**32 - 1

__all__ = [
    "GgufHeader",
    "NeedMore",
    "Pooling",
    "Purpose",
    "merge_parts",
    "read_beginning",
    "read_header",
]


class GgufHeader(Struct, frozen=True, kw_only=True):
    """A GGUF file's account of itself.

    Attributes:
        architecture: Such as ``llama``; empty in later parts of a split file.
        kind: ``general.type``: ``model``, ``adapter``, ``mmproj``, ``imatrix``.
        name: The model's name, or empty.
        size_label: Such as ``7B`` or ``8x7B``, or empty.
        file_type: What ``general.file_type`` names, such as ``Q4_K_M``, or empty.
        context_tokens: Context the model was trained with, or `None`.
        block_count: Layers.
        embedding_length: Width of the hidden state.
        feed_forward_length: Width inside the feed-forward layers, the widest one's; 0 if not told.
        vocabulary_size: Tokens that the model can choose from; 0 without an embedding tensor.
        kv_bytes_per_token: Upper bound of what a token costs in a KV cache of F16 values.
        chat_template: Jinja source, or `None`.
        tokenizer: ``tokenizer.ggml.model``, such as ``gpt2``, or empty.
        pre_tokenizer: ``tokenizer.ggml.pre``, such as ``qwen2``, or empty.
        pooling: How the model makes one vector of many, or `None` if it does not say.
        is_causal: A token knows only those before it.
        split_index: Which part of a split file this is, from 0.
        split_count: Parts of the split file, at least 1.
        tensor_count: Tensors in this file.
        parameter_count: Values in all tensors.
        bytes_by_type: Bytes of the tensors by type, such as ``Q4_K``.
        has_classifier: There is a classification head, as rerankers have one.
        file_bytes: Length of the file that the header describes.
    """

    architecture: str
    kind: str
    name: str
    size_label: str
    file_type: str
    context_tokens: int | None
    block_count: int
    embedding_length: int
    feed_forward_length: int
    vocabulary_size: int
    kv_bytes_per_token: int
    chat_template: str | None
    tokenizer: str
    pre_tokenizer: str
    pooling: Pooling | None
    is_causal: bool
    split_index: int
    split_count: int
    tensor_count: int
    parameter_count: int
    bytes_by_type: dict[str, int]
    has_classifier: bool
    file_bytes: int

    @property
    def quantisation(self) -> str:
        """The file type's name, else the tensor type most bytes are of; empty without tensors."""
        dominant = max(self.bytes_by_type, key=self.bytes_by_type.__getitem__, default="")
        return self.file_type or dominant

    @property
    def purpose(self) -> Purpose:
        """What the model can be asked for; ``other`` is what cannot be loaded as a model."""
        is_vocabulary = self.tensor_count == 0 and self.split_count == 1
        if self.kind != "model" or self.architecture in NO_MODELS or is_vocabulary:
            return "other"
        says_pooling = self.pooling not in {None, "none"}
        # Conversions for vectors may carry the head that the model was trained with.
        if self.pooling == "rank" or (self.has_classifier and not says_pooling):
            return "reranking"
        if self.architecture in ENCODERS or says_pooling:
            return "embedding"
        return "generation"

    @property
    def vector_pooling(self) -> Pooling:
        """How one vector or score is made of a row, by custom where the header does not say."""
        if self.purpose == "reranking":
            return "rank"
        if self.pooling is None or self.pooling == "none":
            return "mean" if self.architecture in ENCODERS else "last"
        return self.pooling

    @property
    def has_cache(self) -> bool:
        """llama.cpp keeps keys and values of what the model has read."""
        return self.architecture not in ENCODERS or self.architecture in CACHED_ENCODERS

    @property
    def reads_in_parts(self) -> bool:
        """A row can be read in several passes: what counts is its last token, and those before."""
        return self.has_cache and self.is_causal and self.vector_pooling in {"last", "rank"}

    @property
    def is_encoder_decoder(self) -> bool:
        """It reads with one network and writes with another, as T5 does."""
        return self.architecture in ENCODER_DECODERS


def read_header(data: bytes | bytearray, file_bytes: int | None = None) -> GgufHeader:
    """Read the header from the first bytes of a file.

    Args:
        data: The file's beginning, of any length.
        file_bytes: Length of the whole file, if known; a file that is too short is then refused.

    Raises:
        NeedMore: `data` ends inside the header.
        CorruptModel: It is no GGUF file, or one that is damaged or incomplete.
        UnsupportedModel: It is of a version, byte order or tensor type that is not known here.
    """
    with memoryview(data) as view:
        layout = read_layout(view, file_bytes)
    return _interpret(layout)


def read_beginning(data: bytes | bytearray) -> GgufHeader | None:
    """What the first bytes of a file say, before the vocabulary that makes most of a header.

    Of the tensors, which stand last, it has the number only. `None` if not even the architecture is
    there.

    Raises:
        NeedMore: `data` ends before the first value.
        CorruptModel: As `read_header`, of the bytes that are there.
        UnsupportedModel: As `read_header`.
    """
    with memoryview(data) as view:
        values, tensor_count = read_first_values(view)
    if "general.architecture" not in values:
        return None
    return replace(_interpret(Layout(values, [], 0, 0)), tensor_count=tensor_count)


def merge_parts(headers: Sequence[GgufHeader]) -> GgufHeader:
    """The header of a split file as if it were whole: the first part's facts, all parts' sums."""
    by_type: dict[str, int] = {}
    for header in headers:
        for name, size_bytes in header.bytes_by_type.items():
            by_type[name] = by_type.get(name, 0) + size_bytes
    return replace(
        headers[0],
        tensor_count=sum(header.tensor_count for header in headers),
        parameter_count=sum(header.parameter_count for header in headers),
        vocabulary_size=max(header.vocabulary_size for header in headers),
        bytes_by_type=by_type,
        has_classifier=any(header.has_classifier for header in headers),
        file_bytes=sum(header.file_bytes for header in headers),
    )


def _interpret(layout: Layout) -> GgufHeader:
    facts = _Facts(layout.values)
    kind = facts.text("general.type") or "model"
    architecture = facts.text("general.architecture")
    split_index = facts.count("split.no")
    split_count = facts.count("split.count") or 1
    if split_index >= split_count:
        raise CorruptModel(f"the file is part {split_index + 1} of {split_count}")
    if not architecture and kind == "model" and split_index == 0:
        raise CorruptModel("the header does not name an architecture")
    file_type = facts.count("general.file_type", missing=MAX_UINT32) & ~FILE_TYPE_GUESSED
    width = facts.count(f"{architecture}.embedding_length")
    return GgufHeader(
        architecture=architecture,
        kind=kind,
        name=facts.text("general.name"),
        size_label=facts.text("general.size_label"),
        file_type=FILE_TYPES.get(file_type, ""),
        context_tokens=facts.count(f"{architecture}.context_length") or None,
        block_count=facts.count(f"{architecture}.block_count"),
        embedding_length=width,
        feed_forward_length=_feed_forward_length(facts, architecture),
        vocabulary_size=_vocabulary_size(layout.tensors, width),
        kv_bytes_per_token=_kv_bytes_per_token(facts, architecture),
        chat_template=facts.text("tokenizer.chat_template") or None,
        tokenizer=facts.text("tokenizer.ggml.model"),
        pre_tokenizer=facts.text("tokenizer.ggml.pre"),
        pooling=_pooling(facts, architecture),
        is_causal=facts.flag(
            f"{architecture}.attention.causal", missing=architecture not in ENCODERS
        ),
        split_index=split_index,
        split_count=split_count,
        tensor_count=len(layout.tensors),
        parameter_count=sum(tensor.values_count for tensor in layout.tensors),
        bytes_by_type=_bytes_by_type(layout.tensors),
        has_classifier=any(_is_classifier(tensor) for tensor in layout.tensors),
        file_bytes=layout.file_bytes,
    )


class _Facts:
    """Values by key, with the type that llama.cpp requires of each."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def text(self, key: str) -> str:
        """A string; empty if there is none."""
        value = self._values.get(key, "")
        if not isinstance(value, str):
            raise CorruptModel(f"{key} is not a string")
        return value

    def count(self, key: str, *, missing: int = 0) -> int:
        """An integer of 32 bits that is not negative."""
        return self._checked(key, self._values.get(key, missing))

    def counts(self, key: str, length: int) -> tuple[int, ...] | int:
        """Such an integer, or one for each of `length` layers; 0 if there is none."""
        value = self._values.get(key, 0)
        if not isinstance(value, tuple):
            return self._checked(key, value)
        if len(value) < length:
            raise CorruptModel(f"{key} has {len(value)} values for {length} layers")
        return tuple(self._checked(key, item) for item in value[:length])

    def flag(self, key: str, *, missing: bool) -> bool:
        """A truth value."""
        value = self._values.get(key, missing)
        if not isinstance(value, bool):
            raise CorruptModel(f"{key} is not a truth value")
        return value

    @staticmethod
    def _checked(key: str, value: Value) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_UINT32:
            raise CorruptModel(f"{key} is not a count of 32 bits")
        return value


def _kv_bytes_per_token(facts: _Facts, architecture: str) -> int:
    """F16 keys and values of every layer that has heads for them.

    An upper bound: the window of sliding attention and latent attention's sharing are not counted.
    """
    layers = facts.count(f"{architecture}.block_count")
    heads = facts.counts(f"{architecture}.attention.head_count", layers)
    kv_heads = facts.counts(f"{architecture}.attention.head_count_kv", layers) or heads
    most_heads = heads if isinstance(heads, int) else max(heads, default=0)
    width = facts.count(f"{architecture}.embedding_length")
    head_length = width // most_heads if most_heads else 0
    key_length = facts.count(f"{architecture}.attention.key_length", missing=head_length)
    value_length = facts.count(f"{architecture}.attention.value_length", missing=head_length)
    all_heads = kv_heads * layers if isinstance(kv_heads, int) else sum(kv_heads)
    return all_heads * (key_length + value_length) * KV_BYTES_PER_VALUE


def _feed_forward_length(facts: _Facts, architecture: str) -> int:
    layers = facts.count(f"{architecture}.block_count")
    lengths = facts.counts(f"{architecture}.feed_forward_length", layers)
    return lengths if isinstance(lengths, int) else max(lengths, default=0)


def _vocabulary_size(tensors: Sequence[Tensor], width: int) -> int:
    values = next((t.values_count for t in tensors if t.name == "token_embd.weight"), 0)
    return values // width if width else 0


def _pooling(facts: _Facts, architecture: str) -> Pooling | None:
    number = facts.count(f"{architecture}.pooling_type", missing=MAX_UINT32)
    return POOLINGS[number] if number < len(POOLINGS) else None


def _bytes_by_type(tensors: Sequence[Tensor]) -> dict[str, int]:
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.type_name] = by_type.get(tensor.type_name, 0) + tensor.size_bytes
    return by_type


def _is_classifier(tensor: Tensor) -> bool:
    return tensor.name.startswith("cls.")
