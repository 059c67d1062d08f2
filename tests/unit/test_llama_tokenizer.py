"""A GGUF file's vocabulary through llama.cpp: ids, bytes, templates, text that comes back."""

from pathlib import Path

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lmx.engines.mlx.gguf_source import GgufSource
from lmx.engines.mlx.gguf_tokenizer import build_tokenizer
from lmx.errors import CorruptModel, InvalidRequest, UnsupportedModel
from lmx.protocol.messages import ChatPrompt
from lmx.protocol.values import GgufOptions
from tests.tiny_gguf import CONTROLS, PIECES, TEMPLATE, TOKENS, WORDS, TinyLlama
from tests.tiny_gguf import write_sentencepiece as write

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.library import LlamaModel  # noqa: E402
from lmx.engines.llama.tokenizer import LlamaTokenizer, end_ids, load_tokenizer  # noqa: E402

CHAT = ChatPrompt([{"role": "user", "content": "hello"}])
TEXTS = ["hello", " leading space", "two  spaces ", "Grüße, 世界 👋🏽", "a\nb\tc", "a\0b", ""]
BEGIN, END = 1, 2
TOOL = len(PIECES) + WORDS.index("<tool>")
HELLO = len(PIECES) + WORDS.index("▁hello")
BARE_HELLO = len(PIECES) + WORDS.index("hello")


def open_model(path: Path) -> LlamaModel:
    """Its vocabulary, for as long as the process lives."""
    return LlamaModel(str(path), GgufOptions(), vocabulary_only=True)


def load(path: Path) -> LlamaTokenizer:
    """Its tokenizer."""
    return load_tokenizer(open_model(path))[0]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> LlamaTokenizer:
    """GPT-2's kind."""
    return load(TinyLlama().write(tmp_path_factory.mktemp("bpe") / "m.gguf"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same file as `tokenizers` reads it."""
    path = TinyLlama().write(tmp_path_factory.mktemp("reference") / "m.gguf")
    return build_tokenizer(GgufSource(path))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> LlamaTokenizer:
    """Llama-2's kind, which puts a space before a text."""
    return load(write(tmp_path_factory.mktemp("spm") / "m.gguf"))


def spell(tokenizer: LlamaTokenizer, token_ids: list[int], *visible: str) -> str:
    """The ids one by one through a detokenizer."""
    detokenizer = tokenizer.new_detokenizer(frozenset(visible))
    text = "".join(map(detokenizer.feed, token_ids)) + detokenizer.flush()
    assert "" == detokenizer.flush()
    return text


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(
    byte_level: LlamaTokenizer, sentencepiece: LlamaTokenizer, text: str
) -> None:
    """In both kinds of vocabulary, spaces at either end and NUL included."""
    for tokenizer in (byte_level, sentencepiece):
        assert text == spell(tokenizer, tokenizer.encode(text))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_ids_are_those_of_hugging_face(
    byte_level: LlamaTokenizer, reference: Tokenizer, text: str
) -> None:
    """The same vocabulary in `tokenizers` gives the same ids, special tokens in the text too."""
    text += "<|im_start|>" + text
    assert reference.encode(text, add_special_tokens=False).ids == byte_level.encode(text)


@pytest.mark.parametrize("filler", ["=", " ", "\n", "世", "1", "hello ", "<|im_end|>", "<s>"])
def test_long_texts_come_back(
    byte_level: LlamaTokenizer, sentencepiece: LlamaTokenizer, filler: str
) -> None:
    """Whatever they repeat, within seconds, and without a space or a word more or less."""
    text = "x" + filler * 50_000
    for tokenizer in (byte_level, sentencepiece):
        visible = tokenizer.special_tokens
        assert text == spell(tokenizer, tokenizer.encode(text), *visible)


def test_rules_that_recurse_bear_long_runs(tmp_path: Path) -> None:
    """The rules of `default` run through `std::regex`, which takes a stack frame a character."""
    tokenizer = load(TinyLlama(pre="default").write(tmp_path / "m.gguf"))
    for filler in ("=", "1", "世"):
        text = filler * 200_000
        assert text == spell(tokenizer, tokenizer.encode(text))


def test_lone_surrogates_are_question_marks(byte_level: LlamaTokenizer) -> None:
    """They have no bytes in UTF-8, so no vocabulary spells them."""
    assert byte_level.encode("a?b") == byte_level.encode("a\ud800b")


def test_the_space_before_a_text(sentencepiece: LlamaTokenizer) -> None:
    """Put there, also after a special token, and dropped once at an answer's beginning."""
    assert [HELLO] == sentencepiece.encode("hello")
    assert [BEGIN, HELLO] == sentencepiece.encode("<s>hello")
    assert "hello hello" == spell(sentencepiece, [HELLO, HELLO])
    assert "hello hello" == spell(sentencepiece, [BEGIN, BARE_HELLO, HELLO])


def test_text_inside_an_answer(sentencepiece: LlamaTokenizer) -> None:
    """No space comes before it, nor after a special token, and an end in it is plain text."""

    def inside(text: str) -> list[int]:
        return sentencepiece.encode_inside(text, ends=[END])

    assert [BARE_HELLO] == inside("hello")
    assert [HELLO, TOOL] == inside(" hello<tool>")
    assert [BARE_HELLO, BEGIN] == inside("hello<s>")
    for text in ("<s>hello", "hello</s>", "hello</s>" * 2000, "<s>hello" * 2000):
        ids = inside(text)
        assert END not in ids
        assert text.encode() == b"".join(map(sentencepiece.token_bytes, ids))


def test_no_space_where_the_file_says_so(tmp_path: Path) -> None:
    """Gemma's kind spells the first word as it stands."""
    tokenizer = load(write(tmp_path / "m.gguf", ggml__add_space_prefix=False))
    assert [BARE_HELLO] == tokenizer.encode("hello")
    assert " hello" == spell(tokenizer, [HELLO])


def test_characters_arrive_whole(sentencepiece: LlamaTokenizer) -> None:
    """Bytes of one are held back; what never becomes one is U+FFFD."""
    detokenizer = sentencepiece.new_detokenizer()
    first, *rest = (PIECES.index(f"<0x{byte:02X}>") for byte in "世".encode())
    pieces = [detokenizer.feed(token_id) for token_id in (first, *rest, first)]
    assert ["", "", "世", ""] == pieces
    assert "\ufffd" == detokenizer.flush()


def test_which_tokens_show(byte_level: LlamaTokenizer, sentencepiece: LlamaTokenizer) -> None:
    """Control tokens where asked for, added ones always, unknown ids never."""
    assert set(CONTROLS) == byte_level.special_tokens
    assert {"<s>", "</s>", "<unk>"} == sentencepiece.special_tokens
    ids = [BEGIN, TOOL, END, 0, 9999, -1]
    assert "<tool>" == spell(sentencepiece, ids)
    assert "<s><tool>" == spell(sentencepiece, ids, "<s>")
    assert ids[:3] == sentencepiece.encode("<s><tool></s>")


def test_the_bytes_of_single_tokens(
    byte_level: LlamaTokenizer, sentencepiece: LlamaTokenizer
) -> None:
    """Pieces, lone bytes, spaces and special tokens give their bytes, unknown ids none."""
    ids = [HELLO, 3 + 0xFF, BEGIN, TOOL, 9999, -1]
    expected = [b" hello", b"\xff", b"<s>", b"<tool>", b"", b""]
    assert expected == [sentencepiece.token_bytes(token_id) for token_id in ids]
    ids = [TOKENS.index("Ġw"), TOKENS.index("ÿ"), END]
    assert [b" w", b"\xff", b"<|im_end|>"] == [byte_level.token_bytes(i) for i in ids]


def test_the_beginning_token(
    tmp_path: Path, byte_level: LlamaTokenizer, sentencepiece: LlamaTokenizer
) -> None:
    """First and once where the vocabulary wants one, and only when asked for."""
    assert [HELLO] == sentencepiece.encode("hello")
    assert [BEGIN, HELLO] == sentencepiece.encode("hello", add_beginning=True)
    assert [BEGIN, HELLO] == sentencepiece.encode("<s>hello", add_beginning=True)
    assert [BEGIN] == sentencepiece.encode("", add_beginning=True)
    assert byte_level.encode("hello") == byte_level.encode("hello", add_beginning=True)
    without = load(write(tmp_path / "m.gguf", ggml__add_bos_token=False))
    assert [HELLO] == without.encode("hello", add_beginning=True)


@pytest.mark.parametrize(
    "template", ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"]
)
def test_a_chat_begins_with_one_beginning_token(tmp_path: Path, template: str) -> None:
    """Whether or not the template writes it, if the vocabulary wants one."""
    tokenizer = load(write(tmp_path / "m.gguf", chat_template=template))
    assert "<s>hello" == tokenizer.render(CHAT)
    assert [BEGIN, HELLO] == tokenizer.encode(tokenizer.render(CHAT))


def test_the_template_is_the_files_own(tmp_path: Path, byte_level: LlamaTokenizer) -> None:
    """The one without a name; it knows the special tokens, and refuses what it likes."""
    assert TEMPLATE == byte_level.template_source
    rendered = byte_level.render(CHAT)
    assert "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n" == rendered
    named = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}"
    path = write(tmp_path / "m.gguf", chat_template=named, chat_template__tool_use="T")
    assert "<s>|</s>|" == load(path).render(CHAT)
    refusing = write(tmp_path / "n.gguf", chat_template="{{ raise_exception('no') }}")
    with pytest.raises(InvalidRequest):
        load(refusing).render(CHAT)
    with pytest.raises(CorruptModel, match="chat template"):
        load(write(tmp_path / "o.gguf", chat_template="{% for %}"))


def test_a_file_without_a_template(tmp_path: Path) -> None:
    """Gets a plain one, the beginning token and a remark."""
    tokenizer, notes = load_tokenizer(open_model(write(tmp_path / "m.gguf")))
    assert "<s>user: hello\nassistant:" == tokenizer.render(CHAT)
    assert "" == tokenizer.template_source
    assert "role: content" in notes[0]


def test_end_ids_are_llama_cpps(tmp_path: Path) -> None:
    """The named end token and those known by their text."""
    assert {END} == end_ids(open_model(write(tmp_path / "m.gguf")))
    assert {0, END} == end_ids(open_model(TinyLlama().write(tmp_path / "n.gguf")))


def test_a_file_without_a_vocabulary_is_unsupported(tmp_path: Path) -> None:
    """llama.cpp would end the process at the first text."""
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("no_vocab")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match="no vocabulary"):
        load(tmp_path / "m.gguf")
