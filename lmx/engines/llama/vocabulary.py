"""What a GGUF file's tokens spell, and texts to ids, through llama.cpp. Knows no weights.

llama.cpp only reads a vocabulary once it is loaded, so any thread may encode. What tokens spell is
read once into tables; ids out of range, at which llama.cpp ends the process, never reach it.
Source: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

import ctypes
from typing import NamedTuple

import llama_cpp

from lmx.engines.llama.cutting import Kind, TextCutter
from lmx.engines.llama.library import LlamaModel

SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
ADDED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
STRIPPING = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP
KINDS: dict[int, Kind] = {
    llama_cpp.LLAMA_VOCAB_TYPE_BPE: "rules",
    llama_cpp.LLAMA_VOCAB_TYPE_SPM: "pieces",
}
# How llama.cpp spells a character that byte-level vocabularies have no byte for.
NO_BYTE = b"[UNK_BYTE_0x"
FIRST_BUFFER_BYTES = 256
# Flags of calls that take no keywords.
AS_IT_STANDS, SHOWS_SPECIAL = False, True
# No vocabulary has a token that joins it with anything.
SENTINEL = "\x02"
UNKNOWN_KEY, UNKNOWN_OF_BERT = "tokenizer.ggml.unknown_token_id", 100  # llama.cpp's default


class Vocabulary(NamedTuple):
    """What tokens spell.

    Attributes:
        shown: Bytes of each token that is text; those that spell nothing are absent.
        special: Texts of control tokens and of the unknown token.
        added: Those of `shown` that are recognised in a prompt before anything else is.
        stripping: Texts of special tokens that swallow white space before them.
    """

    shown: dict[int, bytes]
    special: dict[int, bytes]
    added: frozenset[int]
    stripping: frozenset[str]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""
        shown = self.shown.get(token_id)
        return self.special.get(token_id, b"") if shown is None else shown


class Frame(NamedTuple):
    """The special ids around texts in a row, as the vocabulary's flags want them.

    Attributes:
        start: Before a text.
        middle: Between a query and a document.
        end: After a text.
        spare: What stands for a row that would have no id at all.
    """

    start: list[int]
    middle: list[int]
    end: list[int]
    spare: int


class Pieces(NamedTuple):
    """A vocabulary of BERT's kind, as llama.cpp stores it.

    Attributes:
        texts: By id. A word's beginning has a mark before it, what goes on a word stands bare.
        special: Ids of those that are no part of a word.
        unknown: The id for words that the others do not spell.
    """

    texts: list[str]
    special: frozenset[int]
    unknown: int


class TextEncoder:
    """Texts to ids, in parts where llama.cpp would not bear the whole.

    Args:
        model: Stays open as long as this.
        vocabulary: What its tokens spell.

    Attributes:
        marks: Texts of the tokens that are recognised in a text as such.
        adds_space: A text begins as if a space stood before it.
    """

    def __init__(self, model: LlamaModel, vocabulary: Vocabulary) -> None:
        self._vocab = model.vocab
        special = map(as_text, vocabulary.special.values())
        self.marks = frozenset(special) | {as_text(vocabulary.shown[i]) for i in vocabulary.added}
        kind = KINDS.get(llama_cpp.llama_vocab_type(model.vocab), "other")
        self._cutter = TextCutter(self.marks, stripping=vocabulary.stripping, kind=kind)
        # SentencePiece vocabularies spell a text's first word like one in its middle. The header's
        # flag says so only for some kinds of vocabulary, so a word is tried.
        word = self._tokenize("a", parses_special=False)
        self.adds_space = b"".join(map(vocabulary.token_bytes, word)).startswith(b" ")
        self._sentinel_count = len(self._tokenize(SENTINEL, parses_special=False))

    def encode(self, text: str, *, parses_special: bool, is_inside: bool = False) -> list[int]:
        """Token ids, without those that begin and end a prompt.

        Lone surrogates, which have no bytes, count as question marks.

        Args:
            text: Any text.
            parses_special: Special tokens in it count as such.
            is_inside: It goes on from other text, and no space is put before it.
        """
        ids: list[int] = []
        for part in self._cutter.cut(text):
            if self.adds_space and (part.is_inside or is_inside):
                part_ids = self._tokenize(SENTINEL + part.text, parses_special=parses_special)
                ids += part_ids[self._sentinel_count :]
            else:
                ids += self._tokenize(part.text, parses_special=parses_special)
        return ids

    def _tokenize(self, text: str, *, parses_special: bool) -> list[int]:
        encoded = text.encode("utf-8", "replace")
        # A text rarely has more tokens than bytes; where it has, the answer is minus their number.
        room = len(encoded) + 1
        while True:
            ids = (llama_cpp.llama_token * room)()
            count: int = llama_cpp.llama_tokenize(
                self._vocab, encoded, len(encoded), ids, room, AS_IT_STANDS, parses_special
            )
            if count >= 0:
                found: list[int] = ids[:count]
                return found
            room = -count


def read_vocabulary(model: LlamaModel) -> Vocabulary:
    """What every token of a model spells."""
    buffer = ctypes.create_string_buffer(FIRST_BUFFER_BYTES)
    is_bpe = llama_cpp.llama_vocab_type(model.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_BPE
    found = Vocabulary({}, {}, frozenset(), frozenset())
    added, stripping = set(), set()
    for token_id in range(model.vocabulary_size):
        attributes = llama_cpp.llama_vocab_get_attr(model.vocab, token_id)
        size = llama_cpp.llama_token_to_piece(
            model.vocab, token_id, buffer, len(buffer), 0, SHOWS_SPECIAL
        )
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(
                model.vocab, token_id, buffer, len(buffer), 0, SHOWS_SPECIAL
            )
        spelled = ctypes.string_at(buffer, size)
        if is_bpe and NO_BYTE in spelled:
            # Such a token is text, as for Hugging Face's byte-level decoder.
            spelled = llama_cpp.llama_vocab_get_text(model.vocab, token_id)
        if not spelled:
            continue
        if attributes & SPECIAL:
            found.special[token_id] = spelled
        else:
            found.shown[token_id] = spelled
            if attributes & ADDED:
                added.add(token_id)
        if attributes & STRIPPING:
            stripping.add(as_text(spelled))
    return found._replace(added=frozenset(added), stripping=frozenset(stripping))


def has_vocabulary(model: LlamaModel) -> bool:
    """Whether texts can be made into ids at all."""
    return bool(llama_cpp.llama_vocab_type(model.vocab) != llama_cpp.LLAMA_VOCAB_TYPE_NONE)


def has_pieces(model: LlamaModel) -> bool:
    """Whether the vocabulary is of BERT's kind."""
    return bool(llama_cpp.llama_vocab_type(model.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_WPM)


def read_pieces(model: LlamaModel) -> Pieces:
    """All of a vocabulary of BERT's kind."""
    vocab, ids = model.vocab, range(model.vocabulary_size)
    attributes = (llama_cpp.llama_vocab_get_attr(vocab, i) for i in ids)
    special = {i for i, attribute in enumerate(attributes) if attribute & SPECIAL}
    # Older conversions do not mark them.
    named = (
        llama_cpp.llama_vocab_bos,
        llama_cpp.llama_vocab_sep,
        llama_cpp.llama_vocab_eos,
        llama_cpp.llama_vocab_pad,
        llama_cpp.llama_vocab_mask,
    )
    unknown = int(model.metadata(UNKNOWN_KEY) or UNKNOWN_OF_BERT)
    special |= {call(vocab) for call in named} | {unknown}
    texts = [as_text(llama_cpp.llama_vocab_get_text(vocab, i)) for i in ids]
    return Pieces(texts, frozenset(special & set(ids)), unknown)


def read_frame(model: LlamaModel) -> Frame:
    """What stands around texts, as llama.cpp puts it around one text, and its server around two.

    Vocabularies of BERT's kind end a row with a separator whatever their flags say. Where there is
    no end token, the separator is one.
    """
    vocab = model.vocab
    beginning, end = llama_cpp.llama_vocab_bos(vocab), llama_cpp.llama_vocab_eos(vocab)
    separator = llama_cpp.llama_vocab_sep(vocab)
    known = [i for i in (beginning, end, separator, llama_cpp.llama_vocab_pad(vocab)) if i >= 0]
    spare = known[0] if known else 0
    if has_pieces(model):
        return Frame([beginning], [separator], [separator], spare)
    start = [beginning] if llama_cpp.llama_vocab_get_add_bos(vocab) and beginning >= 0 else []
    last = end if end >= 0 else separator
    ending = [last] if llama_cpp.llama_vocab_get_add_eos(vocab) and last >= 0 else []
    is_parted = llama_cpp.llama_vocab_get_add_sep(vocab) and separator >= 0
    return Frame(start, [*ending, *([separator] if is_parted else [])], ending, spare)


def beginning_id(model: LlamaModel) -> int | None:
    """The token that a prompt begins with, if the vocabulary wants one."""
    token_id: int = llama_cpp.llama_vocab_bos(model.vocab)
    is_wanted = token_id >= 0 and llama_cpp.llama_vocab_get_add_bos(model.vocab)
    return token_id if is_wanted else None


def as_text(spelled: bytes) -> str:
    """What bytes of a token show as."""
    return spelled.decode("utf-8", "replace")
