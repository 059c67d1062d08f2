"""The fake engine's vocabulary, tokenizer and chat template. Knows no sequences and no steps.

A token is a byte or a word, so that any text can be a prompt and every test can read its ids.
"""

import codecs
from collections.abc import Sequence

import msgspec
import numpy as np

from lmx.engines.base import Constraint, TokenLogprobs
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt

END_ID = 256
FIRST_WORD_ID = 257
WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "isle",
    "jade", "kelp", "lumen", "maple", "north", "oak", "pearl", "quartz", "river",
    "slate", "tide", "umber", "vale", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip
VOCABULARY_SIZE = FIRST_WORD_ID + len(WORDS)
# What ends a JSON value soonest, so that constrained replies are short.
CLOSING_IDS: tuple[int, ...] = (END_ID, *b'"}]0')
END_TEXT = "<end>"
TOKENS = {
    **{byte: bytes((byte,)) for byte in range(256)},
    END_ID: END_TEXT.encode(),
    **{FIRST_WORD_ID + index: f" {word}".encode() for index, word in enumerate(WORDS)},
}


class FakeDetokenizer:
    """Bytes and words to text, holding incomplete UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Text that became final with this id; the end token reads as nothing."""
        return self._decoder.decode(b"" if token_id == END_ID else TOKENS.get(token_id, b""))

    def flush(self) -> str:
        """What is still held, incomplete bytes as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class FakeTokenizer:
    """One id per UTF-8 byte, and a template any reader understands at once."""

    template_source = ""
    special_tokens = frozenset({END_TEXT})

    def render(self, prompt: ChatPrompt) -> str:
        """``tools`` if there are any, then ``role: content`` lines.

        A message whose content is ``refuse me`` is refused.
        """
        if any(message.get("content") == "refuse me" for message in prompt.messages):
            raise InvalidRequest("the chat template refused this conversation", param="messages")
        tools = [f"tools: {msgspec.json.encode(prompt.tools).decode()}\n"] if prompt.tools else []
        lines = [f"{m['role']}: {m.get('content') or ''}\n" for m in prompt.messages]
        return "".join([*tools, *lines, "assistant:"])

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        """The UTF-8 bytes; there is no beginning token."""
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        """A byte, a word with its space, or the end token's text."""
        return TOKENS.get(token_id, b"")

    def new_detokenizer(self, visible: frozenset[str] = frozenset()) -> FakeDetokenizer:
        """A fresh detokenizer; the end token is never shown."""
        return FakeDetokenizer()


def has_tool_result(token_ids: Sequence[int]) -> bool:
    """Whether a rendered conversation holds a tool's message."""
    return b"\ntool: " in bytes(token_id for token_id in token_ids if token_id < END_ID)


class ByteVocabulary:
    """The tokens as llguidance reads a vocabulary; it encodes to bytes."""

    eos_token_id = END_ID
    bos_token_id = None
    special_token_ids = (END_ID,)
    tokens = tuple(TOKENS[token_id] for token_id in range(VOCABULARY_SIZE))

    def __call__(self, text: bytes | str) -> list[int]:
        """The ids of a text."""
        return list(text.encode() if isinstance(text, str) else text)


def invent_logprobs(token_id: int, position: int, count: int) -> TokenLogprobs:
    """Numbers of the right shape: the chosen token is always the most likely one.

    Its log-probability is minus six to thirteen eighths, by position; each alternative, the ids
    after it, has three quarters less than the one before. Their probabilities stay below 1.
    """
    best = -(6 + position % 8) / 8
    top = (((token_id + i) % VOCABULARY_SIZE, best - 0.75 * i) for i in range(count))
    return TokenLogprobs(best, tuple(top))


def choose_allowed(constraint: Constraint, own: int) -> int:
    """The reply's own token if the constraint allows it, else one that soon completes the text.

    That is the end token, then whatever closes JSON, then the lowest id above the space.
    """
    mask = np.zeros((VOCABULARY_SIZE + 31) // 32, dtype=np.int32)
    if not constraint.fill_mask(mask):
        return own
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCABULARY_SIZE]
    preferred = next((i for i in (own, *CLOSING_IDS) if bits[i]), None)
    if preferred is not None:
        return preferred
    allowed = [i for i, bit in enumerate(bits) if bit]
    printable = [i for i in allowed if i > ord(" ")]
    return (printable or allowed or [END_ID])[0]
