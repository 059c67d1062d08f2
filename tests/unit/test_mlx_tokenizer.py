"""Encoding, and text that comes back piece by piece without a byte lost or cut."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from lmx.engines.mlx.detokenizer import MAX_HELD_TOKENS, DetokenizerFactory
from lmx.engines.mlx.tokenizer import load_tokenizer
from lmx.errors import CorruptModel, UnsupportedModel
from tests.tiny_models import build_tiny_tokenizer

BYTE_LEVEL = build_tiny_tokenizer()
BYTE_LEVEL_FACTORY = DetokenizerFactory(BYTE_LEVEL)


def sentencepiece_like() -> Tokenizer:
    """Llama-2's shape: pieces with `▁`, byte fallback, a stripped first space."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁hello", "▁world", "a", "b", "▁a"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[],
            unk_token=pieces[0],
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def write_model(path: Path, config: dict[str, object] | None = None) -> Path:
    """A directory with the tokenizer's files only."""
    BYTE_LEVEL.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return path


@given(st.lists(st.integers(min_value=0, max_value=BYTE_LEVEL.get_vocab_size() - 1), max_size=40))
@settings(max_examples=400, deadline=None)
def test_feeds_and_flush_add_up_to_the_whole_decode(token_ids: list[int]) -> None:
    """For any ids, valid UTF-8 or not, the pieces are the text of a decode in one go."""
    detokenizer = BYTE_LEVEL_FACTORY.new()
    pieces = [detokenizer.feed(token_id) for token_id in token_ids]
    assert BYTE_LEVEL.decode(token_ids) == "".join([*pieces, detokenizer.flush()])
    assert detokenizer.flush() == ""


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_piece_of_valid_text_holds_a_replacement(text: str) -> None:
    """A character spread over several tokens arrives whole."""
    detokenizer = BYTE_LEVEL_FACTORY.new()
    pieces = [detokenizer.feed(token_id) for token_id in BYTE_LEVEL.encode(text).ids]
    assert text.count("\ufffd") == "".join(pieces).count("\ufffd")


def test_held_bytes_come_out_once() -> None:
    """A character cut off by the end of generation becomes one U+FFFD, on the first flush only."""
    detokenizer = BYTE_LEVEL_FACTORY.new()
    first_bytes = BYTE_LEVEL.encode("👋").ids[:2]
    assert ["", ""] == [detokenizer.feed(token_id) for token_id in first_bytes]
    assert ["\ufffd", ""] == [detokenizer.flush(), detokenizer.flush()]


def test_special_tokens_are_silent() -> None:
    """End tokens and role markers read as nothing, and unknown ids too."""
    detokenizer = BYTE_LEVEL_FACTORY.new()
    specials = [*BYTE_LEVEL.encode("<|im_end|><|im_start|>").ids, 9999]
    assert ["", "", ""] == [detokenizer.feed(token_id) for token_id in specials]


def test_special_tokens_asked_for_are_shown() -> None:
    """Markup that parsers need stays in the text, in either kind of vocabulary."""
    detokenizer = BYTE_LEVEL_FACTORY.new(frozenset({"<|im_start|>"}))
    token_ids = BYTE_LEVEL.encode("the<|im_start|>hello<|im_end|>").ids
    assert "the<|im_start|>hello" == "".join(map(detokenizer.feed, token_ids))
    tokenizer = sentencepiece_like()
    detokenizer = DetokenizerFactory(tokenizer).new({"<s>"})
    token_ids = [*tokenizer.encode("a", add_special_tokens=False).ids, 1, 2]
    token_ids += tokenizer.encode("b", add_special_tokens=False).ids
    pieces = [detokenizer.feed(token_id) for token_id in token_ids]
    assert "a<s>b" == "".join([*pieces, detokenizer.flush()]).replace(" ", "")


def test_the_bytes_of_single_tokens(tmp_path: Path) -> None:
    """Pieces, lone bytes, spaces and special tokens give their bytes, unknown ids none."""
    tokenizer, _ = load_tokenizer(write_model(tmp_path), {})
    text = "the end, 世 <|im_end|>"
    spelled = [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text)]
    assert text.encode() == b"".join(spelled)
    assert b"" == tokenizer.token_bytes(99_999)
    factory = DetokenizerFactory(sentencepiece_like())
    assert [b"<s>", b"\xff", b" hello"] == [factory.token_bytes(i) for i in (1, 3 + 255, 260)]


def test_a_beginning_token_comes_first_where_the_file_says_so(tmp_path: Path) -> None:
    """The post-processor's token is put first once, and only when asked for."""
    saved = build_tiny_tokenizer()
    begin = saved.token_to_id("<|im_start|>")
    saved.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer, _ = load_tokenizer(tmp_path, {})
    plain = tokenizer.encode("the")
    assert [begin, *plain] == tokenizer.encode("the", add_beginning=True)
    assert [begin, *plain] == tokenizer.encode("<|im_start|>the", add_beginning=True)
    assert begin not in plain
    without, _ = load_tokenizer(write_model(tmp_path), {})
    assert plain == without.encode("the", add_beginning=True)


def test_what_the_worker_asks_about_the_vocabulary(tmp_path: Path) -> None:
    """Special tokens by text, and the model's own template, which may be none."""
    tokenizer, _ = load_tokenizer(write_model(tmp_path), {})
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>"} == tokenizer.special_tokens
    assert "" == tokenizer.template_source
    assert "T" == load_tokenizer(tmp_path, {"chat_template": "T"})[0].template_source


def test_added_tokens_that_are_not_special_show() -> None:
    """Markers such as tool calls are text, whatever characters they have."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "«é world»"])
    detokenizer = DetokenizerFactory(tokenizer).new()
    token_ids = tokenizer.encode("<tool_call>x«é world»").ids
    found = "".join(detokenizer.feed(token_id) for token_id in token_ids) + detokenizer.flush()
    assert tokenizer.decode(token_ids) == found


@given(
    st.lists(
        st.sampled_from(["hello", " world", "a b", "é", "世界", "👋🏽", "  ", "\n"]), max_size=12
    ).map("".join)
)
@settings(max_examples=100, deadline=None)
def test_sentencepiece_text_comes_back_whole(text: str) -> None:
    """Vocabularies that are not byte-level keep spaces between pieces and characters whole."""
    tokenizer = sentencepiece_like()
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    detokenizer = DetokenizerFactory(tokenizer).new()
    pieces = [detokenizer.feed(token_id) for token_id in token_ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert tokenizer.decode(token_ids) == "".join([*pieces, detokenizer.flush()])


@given(st.lists(st.integers(min_value=3, max_value=264), max_size=40))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_bytes_that_are_no_text_never_raise(token_ids: list[int]) -> None:
    """Random byte pieces give some text, hold a bounded number of tokens, and raise nothing."""
    tokenizer = sentencepiece_like()
    detokenizer = DetokenizerFactory(tokenizer).new()
    silent = 0
    for token_id in token_ids:
        silent = 0 if detokenizer.feed(token_id) else silent + 1
        assert silent <= MAX_HELD_TOKENS + 1
    detokenizer.flush()
    assert detokenizer.flush() == ""


def test_encode_adds_no_tokens_and_knows_the_special_ones(tmp_path: Path) -> None:
    """A rendered prompt's markers become their ids, and nothing is put in front."""
    tokenizer, _ = load_tokenizer(write_model(tmp_path), {})
    marker = BYTE_LEVEL.token_to_id("<|im_start|>")
    assert [marker, *BYTE_LEVEL.encode("the").ids] == tokenizer.encode("<|im_start|>the")
    assert [] == tokenizer.encode("")


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    """Training-time settings left in tokenizer.json never shorten a prompt."""
    saved = build_tiny_tokenizer()
    saved.enable_truncation(3)
    saved.enable_padding(length=64)
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer, _ = load_tokenizer(tmp_path, {})
    assert BYTE_LEVEL.encode("hello and hello").ids == tokenizer.encode("hello and hello")


def test_the_named_end_token_is_found(tmp_path: Path) -> None:
    """`eos_token` may be a string or an object with `content`."""
    directory = write_model(tmp_path)
    expected = BYTE_LEVEL.token_to_id("<|im_end|>")
    for spelled in ("<|im_end|>", {"content": "<|im_end|>", "lstrip": False}):
        assert expected == load_tokenizer(directory, {"eos_token": spelled})[0].end_id
    assert load_tokenizer(directory, {})[0].end_id is None


def test_a_directory_without_a_tokenizer_is_unsupported(tmp_path: Path) -> None:
    """Only tokenizer.json is read; slow tokenizers need code of their own."""
    with pytest.raises(UnsupportedModel, match="has no tokenizer"):
        load_tokenizer(tmp_path, {})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 3}'])
def test_a_broken_tokenizer_file_is_corrupt(tmp_path: Path, content: str) -> None:
    """A truncated or foreign tokenizer.json is named as the fault."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CorruptModel, match="tokenizer"):
        load_tokenizer(tmp_path, {})
