"""A GGUF file's vocabulary and chat template, through llama.cpp. Knows no weights and no context.

llama.cpp only reads a vocabulary once it is loaded, so any thread may encode. What tokens spell is
read once into tables; ids out of range, at which llama.cpp ends the process, never reach it.
Source: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

import ctypes
from collections import ChainMap
from collections.abc import Collection, Mapping
from typing import NamedTuple

import llama_cpp
from llguidance import TokenizerWrapper

from lmx.engines.base import Detokenizer
from lmx.engines.detokenizer import ByteDetokenizer
from lmx.engines.llama.cutting import Kind, TextCutter
from lmx.engines.llama.library import LlamaModel
from lmx.engines.template import ChatTemplate, fallback_template
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import ChatPrompt

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
CHATML_MARK = b"<|im_start|>"


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


class LlamaTokenizer:
    """Renders and encodes on the intake thread; makes detokenizers for the engine thread.

    Args:
        model: Stays open as long as this.
        vocabulary: What its tokens spell.
        template: The chat template.
        template_source: The text of the model's own template; empty if it has none.
    """

    def __init__(
        self,
        model: LlamaModel,
        vocabulary: Vocabulary,
        template: ChatTemplate,
        *,
        template_source: str,
    ) -> None:
        self.template_source = template_source
        self.vocabulary = vocabulary
        self._vocab = model.vocab
        self._template = template
        self._special_tokens = frozenset(map(_text, vocabulary.special.values()))
        marks = self._special_tokens | {_text(vocabulary.shown[i]) for i in vocabulary.added}
        kind = KINDS.get(llama_cpp.llama_vocab_type(model.vocab), "other")
        self._cutter = TextCutter(marks, stripping=vocabulary.stripping, kind=kind)
        self._beginning = _beginning_id(model)
        self._beginning_text = (
            "" if self._beginning is None else _text(self.token_bytes(self._beginning))
        )
        # SentencePiece vocabularies spell a text's first word like one in its middle. The header's
        # flag says so only for some kinds of vocabulary, so a word is tried.
        word = self._tokenize("a", parses_special=False)
        self._adds_space = b"".join(map(self.token_bytes, word)).startswith(b" ")
        self._sentinel_count = len(self._tokenize(SENTINEL, parses_special=False))

    @property
    def special_tokens(self) -> frozenset[str]:
        """Texts of the control tokens and of the unknown token."""
        return self._special_tokens

    def render(self, prompt: ChatPrompt) -> str:
        """Apply the chat template.

        Where the vocabulary wants a beginning token and the template writes none, it is put first,
        as llama.cpp's server does: many templates in GGUF files rely on it.

        Raises:
            InvalidRequest: The template refuses this conversation.
        """
        text = self._template.render(prompt)
        is_begun = text.startswith(self._beginning_text)
        return text if is_begun else self._beginning_text + text

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        """Token ids; special tokens only where the text spells them.

        SentencePiece vocabularies that put a space before a text do so after every special token
        too, as the older Hugging Face tokenizers of these models do. Lone surrogates, which have
        no bytes, count as question marks.

        Args:
            text: A rendered prompt or plain text.
            add_beginning: Put the beginning token first if the vocabulary wants one, unless the
                text begins with it.
        """
        ids = self._encode(text, parses_special=True)
        if add_beginning and self._beginning is not None and ids[:1] != [self._beginning]:
            ids.insert(0, self._beginning)
        return ids

    def encode_inside(self, text: str, *, ends: Collection[int]) -> list[int]:
        """Token ids of text in the middle of an answer, which spell it to the byte.

        Special tokens in it count as such, unless they would end the answer or bring a space in.

        Args:
            text: What a grammar leaves no choice about.
            ends: Ids that end an answer.
        """
        ids = self._encode(text, parses_special=True, is_inside=True)
        is_exact = b"".join(map(self.token_bytes, ids)) == text.encode("utf-8", "replace")
        if is_exact and not any(token_id in ends for token_id in ids):
            return ids
        return self._encode(text, parses_special=False, is_inside=True)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""
        shown = self.vocabulary.shown.get(token_id)
        return self.vocabulary.special.get(token_id, b"") if shown is None else shown

    def new_detokenizer(self, visible: frozenset[str] = frozenset()) -> Detokenizer:
        """A fresh detokenizer for one sequence, which keeps the special tokens in `visible`."""
        table: Mapping[int, bytes] = self.vocabulary.shown
        if visible:
            special = self.vocabulary.special.items()
            kept = {i: spelled for i, spelled in special if _text(spelled) in visible}
            table = ChainMap(kept, self.vocabulary.shown)
        return ByteDetokenizer(table, drops_space=self._adds_space)

    def _encode(self, text: str, *, parses_special: bool, is_inside: bool = False) -> list[int]:
        """Token ids; no space is put before text that is inside a longer one."""
        ids: list[int] = []
        for part in self._cutter.cut(text):
            if self._adds_space and (part.is_inside or is_inside):
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


def load_tokenizer(model: LlamaModel) -> tuple[LlamaTokenizer, list[str]]:
    """Read the vocabulary and the template.

    A file may hold several templates; the one without a name is the default and is taken.

    Returns:
        The tokenizer and remarks for the log.

    Raises:
        UnsupportedModel: The file has no vocabulary.
        CorruptModel: The template cannot be read.
    """
    if llama_cpp.llama_vocab_type(model.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
        raise UnsupportedModel("the file has no vocabulary")
    vocabulary = read_vocabulary(model)
    notes = []
    own_source = source = model.metadata("tokenizer.chat_template") or ""
    if not source:
        spelled = (*vocabulary.special.values(), *vocabulary.shown.values())
        source, note = fallback_template(is_chatml=CHATML_MARK in spelled)
        notes.append(note)
    template = ChatTemplate(source, _variables(model, vocabulary))
    return LlamaTokenizer(model, vocabulary, template, template_source=own_source), notes


def end_ids(model: LlamaModel) -> frozenset[int]:
    """Every id that llama.cpp takes for the end of an answer."""
    ids = range(model.vocabulary_size)
    return frozenset(i for i in ids if llama_cpp.llama_vocab_is_eog(model.vocab, i))


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
            stripping.add(_text(spelled))
    return found._replace(added=frozenset(added), stripping=frozenset(stripping))


class _GrammarVocabulary:
    """A vocabulary as llguidance reads it: tables, and a call that encodes."""

    bos_token_id = None

    def __init__(self, model: LlamaModel, tokenizer: LlamaTokenizer, ends: frozenset[int]) -> None:
        vocabulary = tokenizer.vocabulary
        self.tokens = [tokenizer.token_bytes(i) for i in range(model.vocabulary_size)]
        # Added tokens that look like tags can be named in a grammar and occur in no plain text, as
        # llguidance has it with Hugging Face's vocabularies.
        tags = [i for i in vocabulary.added if _is_tag(vocabulary.shown[i])]
        self.special_token_ids = sorted({*vocabulary.special, *tags})
        # Only for its kind; the compiler names all of them.
        self.eos_token_id = min(ends, default=0)
        self._tokenizer = tokenizer
        self._ends = ends

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode_inside(text.decode("utf-8", "replace"), ends=self._ends)


def grammar_vocabulary(
    model: LlamaModel, tokenizer: LlamaTokenizer, ends: frozenset[int]
) -> TokenizerWrapper:
    """What a grammar compiler needs, made within a second; the model must outlive it.

    llguidance can also call `llama_tokenize` by its address, but then a schema with a long constant
    meets the limits described in `cutting`, and an end token's text in one ends the answer.

    Args:
        model: Of the tokenizer.
        tokenizer: Spells what a grammar leaves no choice about.
        ends: Ids that end an answer.
    """
    return TokenizerWrapper(_GrammarVocabulary(model, tokenizer, ends))


def _is_tag(spelled: bytes) -> bool:
    return spelled.startswith(b"<") and spelled.endswith(b">")


def _beginning_id(model: LlamaModel) -> int | None:
    token_id: int = llama_cpp.llama_vocab_bos(model.vocab)
    is_wanted = token_id >= 0 and llama_cpp.llama_vocab_get_add_bos(model.vocab)
    return token_id if is_wanted else None


def _variables(model: LlamaModel, vocabulary: Vocabulary) -> dict[str, str]:
    """Tokens by the names templates have for them; those the file lacks are empty, as in llama.cpp.

    The beginning token of the plain template is `LlamaTokenizer.render`'s to add.
    """
    ids = {
        "bos_token": llama_cpp.llama_vocab_bos(model.vocab),
        "eos_token": llama_cpp.llama_vocab_eos(model.vocab),
        "sep_token": llama_cpp.llama_vocab_sep(model.vocab),
        "pad_token": llama_cpp.llama_vocab_pad(model.vocab),
        "mask_token": llama_cpp.llama_vocab_mask(model.vocab),
    }
    spelled = ChainMap(vocabulary.special, vocabulary.shown)
    return {name: _text(spelled.get(token_id, b"")) for name, token_id in ids.items()}


def _text(spelled: bytes) -> str:
    return spelled.decode("utf-8", "replace")
