"""Grammars over a GGUF file's vocabulary, as llguidance reads it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lmx.engines.grammar import LlgGrammarCompiler
from lmx.protocol.values import GgufOptions, Grammar, GrammarKind
from tests.tiny_gguf import PIECES, TOKENS, WORDS, TinyLlama, write_sentencepiece

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.library import LlamaModel  # noqa: E402
from lmx.engines.llama.tokenizer import end_ids, grammar_vocabulary, load_tokenizer  # noqa: E402

ID_OF = {token: token_id for token_id, token in enumerate(TOKENS)}
PIECE_ID = {token: token_id for token_id, token in enumerate([*PIECES, *WORDS])}
END = 2


def compiler(path: Path) -> LlgGrammarCompiler:
    """For the file's model, which stays open as long as the process."""
    model = LlamaModel(str(path), GgufOptions(), vocabulary_only=True)
    ends = end_ids(model)
    make = partial(grammar_vocabulary, model, load_tokenizer(model)[0], ends)
    return LlgGrammarCompiler(make, vocabulary_size=model.vocabulary_size, end_ids=ends)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> LlgGrammarCompiler:
    """For GPT-2's kind of vocabulary."""
    return compiler(TinyLlama().write(tmp_path_factory.mktemp("bpe") / "m.gguf"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> LlgGrammarCompiler:
    """For Llama-2's kind of vocabulary."""
    return compiler(write_sentencepiece(tmp_path_factory.mktemp("spm") / "m.gguf"))


def allowed(
    grammars: LlgGrammarCompiler, kind: GrammarKind, source: str, *consumed: int
) -> set[int]:
    """Ids allowed after some tokens, in a mask wider than the vocabulary and full of ones."""
    constraint = grammars.compile(Grammar(kind, source, "x"))
    for token_id in consumed:
        constraint.consume(token_id)
    mask = np.full(12, -1, dtype=np.int32)
    assert constraint.fill_mask(mask)
    return {int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))}


def test_choices_are_spelt_by_the_vocabularys_tokens(
    byte_level: LlgGrammarCompiler, sentencepiece: LlgGrammarCompiler
) -> None:
    """Longer tokens and lone bytes that begin an allowed text, and the end where it may end."""
    h, he, hell = (ID_OF[text] for text in ("h", "he", "hell"))
    assert {h, he, hell, ID_OF["b"]} == allowed(byte_level, "regex", "hell|b")
    assert {0, END, ID_OF["b"]} == allowed(byte_level, "regex", "ab?", ID_OF["a"])
    spelled = {PIECE_ID[text] for text in ("h", "he", "hell", "<0x68>", "<0x62>")}
    assert spelled == allowed(sentencepiece, "regex", "hell|b")


def test_what_is_certain_is_spelt_as_llama_cpp_spells_it(
    byte_level: LlgGrammarCompiler, sentencepiece: LlgGrammarCompiler
) -> None:
    """One token is left, and no space before it that the grammar does not have."""
    assert {ID_OF["hello"]} == allowed(byte_level, "lark", 'start: "hello"')
    assert {PIECE_ID["hello"]} == allowed(sentencepiece, "lark", 'start: "hello"')
    assert {PIECE_ID["▁hello"]} == allowed(sentencepiece, "lark", 'start: " hello"')
    assert {PIECE_ID["<tool>"]} == allowed(sentencepiece, "lark", 'start: "<tool>" "hello"')
    hello = PIECE_ID["hello"]
    after_tool = allowed(
        sentencepiece, "lark", 'start: "<tool>" "hello"', PIECE_ID["<tool>"], hello
    )
    assert {END} == after_tool


def test_special_tokens_are_no_text(
    byte_level: LlgGrammarCompiler, sentencepiece: LlgGrammarCompiler
) -> None:
    """Free text never holds one, a grammar may name one, and an end's text does not end."""
    free = allowed(byte_level, "regex", "(.|\n)+")
    assert not free & {0, 1, END}
    assert {1} == allowed(byte_level, "lark", 'start: <|im_start|> "a"')
    assert {ID_OF["a"]} == allowed(byte_level, "lark", 'start: "a<|im_end|>"')
    assert {ID_OF["<"]} == allowed(byte_level, "lark", 'start: "a<|im_end|>"', ID_OF["a"])
    assert PIECE_ID["<tool>"] not in allowed(sentencepiece, "regex", "<(tool|b)>")


def test_long_constants_are_borne(tmp_path: Path) -> None:
    """Where the vocabulary's rules recurse once per character, too."""
    grammars = compiler(TinyLlama(pre="default").write(tmp_path / "m.gguf"))
    source = '{"const": "%s"}' % ("=" * 100_000)
    assert {ID_OF['"']} == allowed(grammars, "json_schema", source)
    assert {ID_OF["="]} == allowed(grammars, "json_schema", source, ID_OF['"'])
