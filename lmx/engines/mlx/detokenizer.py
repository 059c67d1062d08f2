"""Ids of one sequence back to text, never cutting a UTF-8 character. Knows no templates.

Two kinds: byte-level vocabularies are a table of bytes per id, exact for every id list; all others
decode a short window and hand out what became final. `tokenizers.DecodeStream` would serve both,
but raises a bare `Exception` on byte runs that turn out not to be UTF-8, which models do sample.
"""

import json
import re
from collections import ChainMap
from collections.abc import Collection, Mapping

from tokenizers import Tokenizer

from lmx.engines.base import Detokenizer
from lmx.engines.detokenizer import ByteDetokenizer

REPLACEMENT = "\ufffd"
# A character has at most four bytes, so a longer hold is no unfinished character.
MAX_HELD_TOKENS = 8
# How SentencePiece vocabularies spell a space and a lone byte.
SPACE_MARK = "\u2581"
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class WindowDetokenizer:
    """For every other vocabulary: decodes from the last point where text was complete."""

    def __init__(self, tokenizer: Tokenizer, visible: Mapping[int, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._visible = visible or {}
        # Ids whose text was handed out, kept as context for spaces, then ids still held.
        self._context: list[int] = []
        self._held: list[int] = []
        self._context_text = ""

    def feed(self, token_id: int) -> str:
        """Text that became final with this id."""
        if token_id in self._visible:
            held = self.flush()
            self._context, self._held, self._context_text = [token_id], [], ""
            return held + self._visible[token_id]
        self._held.append(token_id)
        text: str = self._tokenizer.decode(self._context + self._held)
        if text.endswith(REPLACEMENT) and len(self._held) <= MAX_HELD_TOKENS:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What is still held, as U+FFFD."""
        return self._advance(self._tokenizer.decode(self._context + self._held))

    def _advance(self, text: str) -> str:
        new = text[len(self._context_text) :]
        if new:
            self._context, self._held = self._held, []
            self._context_text = self._tokenizer.decode(self._context)
        return new


class DetokenizerFactory:
    """Makes detokenizers of one vocabulary; they share its tables.

    Args:
        tokenizer: A clone no other thread uses.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
        is_byte_level = decoder.get("type") == "ByteLevel"
        self._bytes_by_id = _byte_table(tokenizer) if is_byte_level else None
        added = tokenizer.get_added_tokens_decoder()
        self._special = {i: token.content for i, token in added.items() if token.special}
        vocabulary = {} if is_byte_level else tokenizer.get_vocab(with_added_tokens=True)
        self._pieces = {token_id: piece for piece, token_id in vocabulary.items()}

    def new(self, visible: Collection[str] = ()) -> Detokenizer:
        """A fresh detokenizer for one sequence.

        Args:
            visible: Texts of special tokens to keep; all others read as nothing.
        """
        shown = {i: text for i, text in self._special.items() if text in visible}
        if self._bytes_by_id is None:
            return WindowDetokenizer(self._tokenizer, shown)
        if not shown:
            return ByteDetokenizer(self._bytes_by_id)
        spelled = {token_id: text.encode() for token_id, text in shown.items()}
        return ByteDetokenizer(ChainMap(spelled, self._bytes_by_id))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""
        if token_id in self._special:
            return self._special[token_id].encode()
        if self._bytes_by_id is not None:
            return self._bytes_by_id.get(token_id, b"")
        piece = self._pieces.get(token_id, "")
        byte = BYTE_PIECE.fullmatch(piece)
        return bytes((int(byte[1], 16),)) if byte else piece.replace(SPACE_MARK, " ").encode()


def _byte_table(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Bytes of every id that shows; special tokens are absent and read as nothing."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    byte_of = _bytes_by_character()
    table = {}
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id in special:
            continue
        known = [byte_of.get(character) for character in token]
        # Source: tokenizers' ByteLevel decoder takes a token with any foreign character as text.
        spelled = bytes(byte for byte in known if byte is not None)
        table[token_id] = spelled if len(spelled) == len(token) else token.encode()
    return table


def _bytes_by_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the rest moves up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(0x100 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved
