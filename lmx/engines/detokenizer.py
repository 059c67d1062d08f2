"""Ids to text for vocabularies whose every token spells bytes. Knows no engine and no template."""

import codecs
from collections.abc import Mapping


class ByteDetokenizer:
    """Text of one sequence, byte by byte, for any list of ids; never cuts a UTF-8 character.

    Args:
        bytes_by_id: What each id spells; ids that are not in it read as nothing.
        drops_space: The vocabulary spells a text's first word with a space before it, which is
            no part of the text.
    """

    def __init__(self, bytes_by_id: Mapping[int, bytes], *, drops_space: bool = False) -> None:
        self._bytes_by_id = bytes_by_id
        self._drops_space = drops_space  # until the first byte has been seen
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Text that became final with this id."""
        spelled = self._bytes_by_id.get(token_id, b"")
        if self._drops_space and spelled:
            self._drops_space = False
            spelled = spelled.removeprefix(b" ")
        return self._decoder.decode(spelled)

    def flush(self) -> str:
        """What is still held, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
