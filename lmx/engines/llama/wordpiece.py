"""Vocabularies of BERT's kind, by the tokenizer their models were trained with. Knows no weights.

llama.cpp splits such texts differently: it takes accents off only where one character stands for a
letter with its accent, so Korean and Hindi lose most of their letters; and it spells out words of
any length, where the models know none of more than 100 characters. So its table of pieces goes back
into the form that `tokenizers` reads.
Source: `BertNormalizer` and `BertPreTokenizer` of tokenizers; the marks are those of
conversion/bert.py of llama.cpp.
"""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from lmx.engines.llama.library import LlamaModel
from lmx.engines.llama.vocabulary import Pieces, read_pieces
from lmx.errors import CorruptModel

BEGINS_WORD = "\u2581"
CONTINUES_WORD = "##"
MAX_WORD_CHARACTERS = 100
LOWERCASE_KEY = "tokenizer.ggml.normalizer.lowercase"
ACCENTS_KEY = "tokenizer.ggml.normalizer.strip_accents"


class WordPieceEncoder:
    """Texts to ids, without those that begin and end a row.

    Args:
        model: Has a vocabulary of this kind.

    Raises:
        CorruptModel: The vocabulary lacks the token for unknown words.
    """

    def __init__(self, model: LlamaModel) -> None:
        pieces = read_pieces(model)
        if not 0 <= pieces.unknown < len(pieces.texts):
            raise CorruptModel(f"the vocabulary has no token {pieces.unknown}, for unknown words")
        is_lower = _flag(model, LOWERCASE_KEY, missing=not _has_capitals(pieces))
        special = [pieces.texts[i] for i in sorted(pieces.special)]
        table = {_spell(pieces, i): i for i in reversed(range(len(pieces.texts)))}
        self._tokenizer = Tokenizer(
            models.WordPiece(
                vocab=table,
                unk_token=pieces.texts[pieces.unknown],
                continuing_subword_prefix=CONTINUES_WORD,
                max_input_chars_per_word=MAX_WORD_CHARACTERS,
            )
        )
        self._tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=is_lower, strip_accents=_flag(model, ACCENTS_KEY, missing=is_lower)
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.add_special_tokens(special)

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text count as such.

        Lone surrogates, which have no bytes, count as question marks.
        """
        plain = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(plain, add_special_tokens=False).ids
        return ids


def _spell(pieces: Pieces, token_id: int) -> str:
    text = pieces.texts[token_id]
    if token_id in pieces.special:
        return text
    begins = text.startswith(BEGINS_WORD)
    return text.removeprefix(BEGINS_WORD) if begins else CONTINUES_WORD + text


def _has_capitals(pieces: Pieces) -> bool:
    """Whether words keep their capital letters; `[unused7]` and its kind are no words."""
    words = (text for i, text in enumerate(pieces.texts) if i not in pieces.special)
    return any(word != word.lower() for word in words if not word.endswith("]"))


def _flag(model: LlamaModel, key: str, *, missing: bool) -> bool:
    said = model.metadata(key)
    return missing if said is None else said == "true"
