"""GGUF headers: what a sound one says, and that no other one does harm."""

import random
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from lmx.catalog.gguf_header import GgufHeader, NeedMore, merge_parts, read_header
from lmx.catalog.gguf_layout import read_layout
from lmx.errors import CorruptModel, LoadError, UnsupportedModel
from tests.raw_gguf import (
    ARRAY,
    Q8_0,
    STRING,
    UINT16,
    UINT32,
    UINT64,
    Plain,
    RawGguf,
    array,
    entry,
    string,
    tensor,
)
from tests.tiny_gguf import HEAD_SIZE, KV_HEADS, LAYERS, TEMPLATE, WIDTH, TinyLlama

HUGE = 2**60
MUTATIONS = 1000


def read(raw: RawGguf) -> GgufHeader:
    """The header of a whole file."""
    data = raw.file()
    return read_header(data, len(data))


def with_values(values: dict[str, Plain]) -> GgufHeader:
    """The header of a model that says this of itself, too."""
    return read(RawGguf().with_values(values))


@pytest.mark.parametrize(("quantized", "quantisation"), [(False, "F32"), (True, "Q8_0")])
def test_a_real_file(
    tmp_path: Path,
    quantized: bool,  # noqa: FBT001  # pytest passes by name
    quantisation: str,
) -> None:
    """A file of gguf-py's writer is read as it was written."""
    model = replace(TinyLlama(), quantized=quantized)
    path = model.write(tmp_path / "tiny.gguf")
    context = gguf.GGUFReader(path).fields["llama.context_length"].contents()
    data = path.read_bytes()
    header = read_header(data, len(data))
    assert ("llama", "model", "generation") == (header.architecture, header.kind, header.purpose)
    assert (quantisation, "") == (header.quantisation, header.file_type)
    assert (context, LAYERS, WIDTH) == (
        header.context_tokens,
        header.block_count,
        header.embedding_length,
    )
    assert ("gpt2", "smollm", TEMPLATE) == (
        header.tokenizer,
        header.pre_tokenizer,
        header.chat_template,
    )
    assert sum(values.size for values in model.weights.values()) == header.parameter_count
    assert len(model.weights) == header.tensor_count
    assert LAYERS * KV_HEADS * HEAD_SIZE * 2 * 2 == header.kv_bytes_per_token
    assert (0, 1, None) == (header.split_index, header.split_count, header.pooling)
    assert header.file_bytes <= len(data)


def test_version_two_is_the_same() -> None:
    """Versions 2 and 3 differ in nothing that is read here."""
    assert read(RawGguf()) == read(RawGguf(version=2))


def test_what_a_header_may_say() -> None:
    """Names, file type and a context are taken from their keys; a guessed file type counts."""
    header = with_values(
        {
            "general.name": "Tiny",
            "general.size_label": "8",
            "general.file_type": 1024 + 15,
            "llama.context_length": 4096,
        }
    )
    assert ("Tiny", "8", "Q4_K_M", 4096) == (
        header.name,
        header.size_label,
        header.quantisation,
        header.context_tokens,
    )


def test_the_type_of_most_bytes_stands_for_an_unknown_file_type() -> None:
    """Where the file type is none that is known, the tensors decide."""
    raw = RawGguf(
        tensors=(tensor("a", (32,), Q8_0), tensor("b", (2,), offset=64)), data_bytes=72
    ).with_values({"general.file_type": 77})
    header = read(raw)
    assert "Q8_0" == header.quantisation
    assert {"Q8_0": 34, "F32": 8} == header.bytes_by_type


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "generation"),
        ({"llama.pooling_type": 0}, "generation"),
        ({"llama.pooling_type": 1}, "embedding"),
        ({"llama.pooling_type": 3}, "embedding"),
        ({"llama.pooling_type": 4}, "reranking"),
        ({"llama.pooling_type": 2**32 - 1}, "generation"),
        ({"general.type": "adapter"}, "other"),
        ({"general.type": "mmproj"}, "other"),
    ],
)
def test_purpose(values: dict[str, Plain], expected: str) -> None:
    """Pooling makes an embedder or a reranker; what is no model is neither."""
    assert expected == with_values(values).purpose


@pytest.mark.parametrize(
    ("architecture", "tensor_name", "expected"),
    [
        ("bert", "token_embd.weight", "embedding"),
        ("bert", "cls.output.weight", "reranking"),
        ("qwen3", "cls.output.weight", "reranking"),
        ("nomic-bert-moe", "token_embd.weight", "embedding"),
        ("gemma-embedding", "token_embd.weight", "embedding"),
        ("clip", "token_embd.weight", "other"),
        ("t5", "token_embd.weight", "generation"),
        ("some-new-thing", "token_embd.weight", "generation"),
    ],
)
def test_purpose_by_architecture(architecture: str, tensor_name: str, expected: str) -> None:
    """Encoders embed, a classification head reranks, and an unknown architecture generates."""
    raw = RawGguf(
        entries=(entry("general.architecture", architecture),), tensors=(tensor(tensor_name, (8,)),)
    )
    assert (expected, architecture == "t5") == (read(raw).purpose, read(raw).is_encoder_decoder)


def test_a_vocabulary_is_no_model() -> None:
    """A file without tensors holds none, unless it is the first part of several."""
    raw = RawGguf(tensors=(), data_bytes=0)
    assert "other" == read(raw).purpose
    assert "generation" == read(raw.with_values({"split.count": 2})).purpose


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([entry("llama.attention.head_count", 8)], 4 * 8 * (8 + 8) * 2),
        (
            [entry("llama.attention.head_count", 8), entry("llama.attention.head_count_kv", 2)],
            4 * 2 * (8 + 8) * 2,
        ),
        (
            [
                entry("llama.attention.head_count", 8),
                entry("llama.attention.head_count_kv", 2),
                entry("llama.attention.key_length", 128),
                entry("llama.attention.value_length", 64),
            ],
            4 * 2 * (128 + 64) * 2,
        ),
        (
            [
                entry("llama.attention.head_count", 8),
                entry(
                    "llama.attention.head_count_kv",
                    array(UINT32, [struct.pack("<I", n) for n in (0, 2, 0, 4)]),
                    ARRAY,
                ),
            ],
            (2 + 4) * (8 + 8) * 2,
        ),
        ([], 0),
    ],
)
def test_kv_bytes(more: list[bytes], expected: int) -> None:
    """Keys and values of all layers with heads, from head counts or from explicit lengths."""
    raw = RawGguf().with_values({"llama.block_count": 4, "llama.embedding_length": 64})
    assert expected == read(raw.with_entries(*more)).kv_bytes_per_token


def test_parts_merge() -> None:
    """The whole has the first part's facts and the sum of the tensors."""
    first = with_values({"general.name": "whole", "split.count": 2})
    other = read(
        RawGguf(
            entries=(), tensors=(tensor("cls.weight", (32,), Q8_0),), data_bytes=34
        ).with_values({"split.no": 1, "split.count": 2})
    )
    whole = merge_parts([first, other])
    assert ("whole", 2, 40, True) == (
        whole.name,
        whole.tensor_count,
        whole.parameter_count,
        whole.has_classifier,
    )
    assert {"F32": 32, "Q8_0": 34} == whole.bytes_by_type


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (RawGguf(magic=b"PK\3\4"), "no GGUF file"),
        (RawGguf(counts=(HUGE, None)), "tensors"),
        (RawGguf(counts=(None, HUGE)), "keys"),
        (RawGguf(entries=()), "architecture"),
        (RawGguf(data_bytes=31), "1 bytes shorter"),
        (RawGguf(tensors=(tensor("a", (HUGE,)),)), "shorter"),
        (RawGguf(tensors=(tensor("a", (2**40, 2**40)),)), "shape"),
        (RawGguf(tensors=(tensor("a", (0, 8)),)), "shape"),
        (RawGguf(tensors=(tensor("a", (1,) * 5),)), "5 dimensions"),
        (RawGguf(tensors=(tensor("a", (8,), Q8_0),)), "blocks"),
        (RawGguf(tensors=(tensor("a", (8,), offset=32),)), "begins at"),
        (RawGguf(tensors=(tensor("a" * 64, (8,)),)), "name of a tensor"),
        (RawGguf(tensors=(tensor("a", (8,)), tensor("a", (8,), offset=32))), "twice"),
        (RawGguf().with_values({"general.architecture": "x"}), "twice"),
        (RawGguf().with_values({"general.alignment": 33}), "alignment"),
        (RawGguf().with_values({"general.alignment": 0}), "alignment"),
        (RawGguf().with_values({"general.alignment": True}), "alignment"),
        (RawGguf().with_values({"general.name": 3}), "general.name"),
        (RawGguf().with_values({"llama.context_length": "long"}), "context_length"),
        (RawGguf().with_values({"split.no": 2, "split.count": 2}), "part 3 of 2"),
        (RawGguf().with_entries(entry("k", b"", 13)), "unknown type 13"),
        (RawGguf().with_entries(entry("k", array(ARRAY, []), ARRAY)), "unknown type 9"),
        (RawGguf().with_entries(entry("k", array(UINT32, [], HUGE), ARRAY)), "does not fit"),
        (RawGguf().with_entries(entry("k", array(STRING, [], HUGE), ARRAY)), "strings"),
        (RawGguf().with_entries(entry("k", struct.pack("<Q", HUGE), STRING)), "does not fit"),
        (
            RawGguf().with_entries(
                entry("k", array(STRING, [struct.pack("<Q", 2**64 - 1)] * 2), ARRAY)
            ),
            "does not fit",
        ),
        (
            RawGguf()
            .with_values({"llama.block_count": 3})
            .with_entries(entry("llama.attention.head_count", array(UINT32, []), ARRAY)),
            "0 values for 3 layers",
        ),
        (
            RawGguf().with_entries(entry("llama.block_count", struct.pack("<Q", HUGE), UINT64)),
            "32 bits",
        ),
    ],
)
def test_a_damaged_file_says_how(raw: RawGguf, said: str) -> None:
    """What is wrong with a file is in its `CorruptModel`."""
    with pytest.raises(CorruptModel, match=said):
        read(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (RawGguf(version=1), "version 1"),
        (RawGguf(version=4), "version 4"),
        (RawGguf(order=">"), "big-endian"),
        (RawGguf(tensors=(tensor("a", (8,), 99),)), "type 99"),
    ],
)
def test_a_foreign_file_says_how(raw: RawGguf, said: str) -> None:
    """A file that is sound but of another kind is an `UnsupportedModel`."""
    with pytest.raises(UnsupportedModel, match=said):
        read(raw)


def test_sixteen_bits_are_enough_for_a_count() -> None:
    """A count may be stored in any integer type; splitters use 16 bits."""
    raw = RawGguf().with_entries(entry("split.count", struct.pack("<H", 3), UINT16))
    assert 3 == read(raw).split_count


def test_long_values_are_stepped_over_and_many_are_refused() -> None:
    """A tokenizer of some megabytes in one string is no obstacle; dozens of long strings are."""
    long, longest = "x" * (1024 * 1024), "x" * (1024 * 1024 + 1)
    assert "llama" == with_values({f"k{number}": longest for number in range(17)}).architecture
    with pytest.raises(CorruptModel, match="more in it"):
        with_values({f"k{number}": long for number in range(17)})


def test_every_cut_asks_for_more_or_is_corrupt() -> None:
    """Bytes that end early ask for more; a file that ends early is corrupt, wherever it ends."""
    raw = RawGguf().with_entries(
        entry("tokens", array(STRING, [string("a"), string("bc")]), ARRAY),
        entry("numbers", array(UINT32, [bytes(4)] * 3), ARRAY),
        entry("tokenizer.chat_template", "{{ x }}"),
    )
    data, header_bytes = raw.file(), len(raw.header())
    for length in range(len(data)):
        if length < header_bytes:
            with pytest.raises(NeedMore) as caught:
                read_header(data[:length])
            assert length < caught.value.bytes_wanted <= header_bytes
        with pytest.raises(CorruptModel):
            read_header(data[:length], length)
    assert read_header(data) == read_header(data, len(data)) == read_header(data[:header_bytes])


def mutated(data: bytes, header_bytes: int, dice: random.Random) -> bytes:
    """The data with one to three bytes, counts or lengths of its header changed."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(header_bytes)
        match dice.randrange(5):
            case 0:
                changed[place] = dice.randrange(256)
            case 1:
                changed[place:place] = dice.randbytes(dice.randint(1, 9))
            case 2:
                del changed[place : place + dice.randint(1, 9)]
            case 3:
                number = dice.choice([0, 1, 2**31, 2**32 - 1, HUGE, 2**63, 2**64 - 1])
                changed[place : place + 8] = struct.pack("<Q", number)
            case _:
                field = dice.choice([8, 16])  # the two counts
                changed[field : field + 8] = struct.pack("<Q", dice.randrange(100_000))
    return bytes(changed)


@pytest.mark.parametrize(
    ("errors", "knows_length"), [((LoadError,), True), ((LoadError, NeedMore), False)]
)
def test_a_thousand_mutations_do_no_harm(
    tmp_path: Path,
    errors: tuple[type[Exception], ...],
    knows_length: bool,  # noqa: FBT001  # pytest passes by name
) -> None:
    """A changed header is read or refused by a typed error, in little time and memory."""
    data = TinyLlama().write(tmp_path / "tiny.gguf").read_bytes()
    header_bytes = read_layout(memoryview(data)).header_bytes
    dice = random.Random(20)  # noqa: S311  # the same mutations every time
    refused = 0
    tracemalloc.start()
    started_s = time.perf_counter()
    for _ in range(MUTATIONS):
        changed = mutated(data, header_bytes, dice)
        try:
            read_header(changed, len(changed) if knows_length else None)
        except errors:
            refused += 1
    took_s = time.perf_counter() - started_s
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < refused < MUTATIONS
    assert took_s < 30
    assert peak_bytes < 8 * 1024 * 1024


def test_a_big_vocabulary_is_quick() -> None:
    """A quarter of a million tokens, their scores and merges take well under a second."""
    tokens = [string(f"token{number}") for number in range(256_000)]
    raw = RawGguf().with_entries(
        entry("tokenizer.ggml.tokens", array(STRING, tokens), ARRAY),
        entry("tokenizer.ggml.scores", array(UINT32, [bytes(4 * len(tokens))], len(tokens)), ARRAY),
        entry("tokenizer.ggml.merges", array(STRING, tokens), ARRAY),
    )
    data = raw.file()
    started_s = time.perf_counter()
    assert "llama" == read_header(data, len(data)).architecture
    assert time.perf_counter() - started_s < 1.0
