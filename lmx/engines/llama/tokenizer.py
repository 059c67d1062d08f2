"""A GGUF file's vocabulary and chat template, through llama.cpp. Knows no weights and no context.

What models that generate need beyond `vocabulary`: prompts from conversations, text that comes back
token by token, and what a grammar compiler reads.
"""

from collections import ChainMap
from collections.abc import Collection, Mapping

import llama_cpp
from llguidance import TokenizerWrapper

from lmx.engines.base import Detokenizer
from lmx.engines.detokenizer import ByteDetokenizer
from lmx.engines.llama.library import LlamaModel
from lmx.engines.llama.vocabulary import (
    TextEncoder,
    Vocabulary,
    as_text,
    beginning_id,
    read_vocabulary,
)
from lmx.engines.template import ChatTemplate, fallback_template
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import ChatPrompt

CHATML_MARK = b"<|im_start|>"


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
        self._template = template
        self._special_tokens = frozenset(map(as_text, vocabulary.special.values()))
        self._encoder = TextEncoder(model, vocabulary)
        self._beginning = beginning_id(model)
        self._beginning_text = (
            "" if self._beginning is None else as_text(self.token_bytes(self._beginning))
        )

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
        ids = self._encoder.encode(text, parses_special=True)
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
        ids = self._encoder.encode(text, parses_special=True, is_inside=True)
        is_exact = b"".join(map(self.token_bytes, ids)) == text.encode("utf-8", "replace")
        if is_exact and not any(token_id in ends for token_id in ids):
            return ids
        return self._encoder.encode(text, parses_special=False, is_inside=True)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""
        return self.vocabulary.token_bytes(token_id)

    def new_detokenizer(self, visible: frozenset[str] = frozenset()) -> Detokenizer:
        """A fresh detokenizer for one sequence, which keeps the special tokens in `visible`."""
        table: Mapping[int, bytes] = self.vocabulary.shown
        if visible:
            special = self.vocabulary.special.items()
            kept = {i: spelled for i, spelled in special if as_text(spelled) in visible}
            table = ChainMap(kept, self.vocabulary.shown)
        return ByteDetokenizer(table, drops_space=self._encoder.adds_space)


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
    return {name: as_text(spelled.get(token_id, b"")) for name, token_id in ids.items()}
