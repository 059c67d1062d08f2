"""The deterministic engine that ships with LMX: no weights, exact timing, failures on request.

It is what the daemon is tested with and its overhead measured with, and what a client author can
run against. It knows nothing of HTTP; a reply is a pure function of prompt ids, seed, position and
constraint.

    fake:NAME?step_ms=5&load_ms=200&tokens=64&max_sequences=32&context=4096

| key | default | meaning |
|---|---|---|
| step_ms | 0 | duration of one decode step |
| prefill_ms | 0 | duration of one prefill chunk of `chunk` tokens; 0 makes prefill free |
| chunk | 512 | prompt tokens per prefill chunk |
| load_ms | 0 | duration of the load |
| tokens | 64 | reply length, if `text` is not given |
| text | | the reply itself, byte by byte |
| max_sequences | the server's | slots |
| context | 4096 | context in tokens |
| weight_bytes | 0 | what the model claims to weigh |
| fail | | ``abort``, ``exit``, ``hang``, ``oom`` or ``raise``, at step number `fail_step`; or \
``asked``: a prompt that says ``fail:abort:3`` does that once it has three tokens |
| fail_step | 0 | counted from 1; 0 means while loading |
"""

import codecs
import os
import re
import time
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec
import numpy as np
from llguidance import TokenizerWrapper
from msgspec import Meta

from lmx.engines.base import (
    Choice,
    Constraint,
    LoadedEngine,
    StepResult,
    TokenLogprobs,
    accept_token,
    check_room,
)
from lmx.engines.grammar import LlgGrammarCompiler
from lmx.errors import InvalidRequest, OutOfMemory, UnsupportedModel
from lmx.protocol.messages import ChatPrompt, Load
from lmx.protocol.values import Memory, ModelInfo

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
KV_BYTES_PER_TOKEN = 1024
ASKED = "asked"
ASKED_FAILURE = re.compile(r"fail:(abort|exit|hang|oom|raise):(\d+)")
END_TEXT = "<end>"
TOKENS = {
    **{byte: bytes((byte,)) for byte in range(256)},
    END_ID: END_TEXT.encode(),
    **{FIRST_WORD_ID + index: f" {word}".encode() for index, word in enumerate(WORDS)},
}

Milliseconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class FakeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query string of a ``fake:`` model, typed; see the module docstring for the keys."""

    step_ms: Milliseconds = 0.0
    prefill_ms: Milliseconds = 0.0
    chunk: Count = 512
    load_ms: Milliseconds = 0.0
    tokens: Annotated[int, Meta(ge=0)] = 64
    text: str = ""
    max_sequences: Count | None = None
    context: Count = 4096
    weight_bytes: Annotated[int, Meta(ge=0)] = 0
    fail: str = ""
    fail_step: int = 0


def parse_settings(query: str) -> FakeSettings:
    """Read the query string of a fake model.

    Raises:
        UnsupportedModel: A key is unknown or a value has the wrong type.
    """
    try:
        return msgspec.convert(dict(parse_qsl(query)), FakeSettings, strict=False)
    except msgspec.ValidationError as error:
        raise UnsupportedModel(f"fake model: {error}") from error


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


class _Prompt:
    """What the choices of one `add` share: the prompt and how much of it is left to prefill."""

    __slots__ = ("logprobs", "pending_tokens", "token_ids")

    def __init__(self, token_ids: Sequence[int], *, prefills: bool) -> None:
        self.token_ids = list(token_ids)
        self.pending_tokens = len(token_ids) if prefills else 0
        self.logprobs: tuple[TokenLogprobs | None, ...] | None = None


class _Reply:
    """One live sequence: its prompt, its settings and how far its reply is."""

    __slots__ = ("constraint", "failure", "given", "prompt", "sampling", "start")

    def __init__(self, prompt: _Prompt, choice: Choice, failure: tuple[str, int] | None) -> None:
        seed = choice.sampling.seed if choice.sampling.temperature > 0 else 0
        self.start = crc32(repr((prompt.token_ids, seed)).encode())
        self.prompt = prompt
        self.sampling = choice.sampling
        self.constraint = choice.constraint
        self.failure = failure
        self.given = 0

    @property
    def word(self) -> int:
        """The word the reply has at this position, if it is made of words."""
        return FIRST_WORD_ID + (self.start + self.given * self.given) % len(WORDS)

    @property
    def may_end(self) -> bool:
        """The end token can be sampled here."""
        return not self.sampling.ignore_eos and self.given >= self.sampling.min_tokens


class FakeEngine:
    """Continuous batching over scripted replies. Penalties and biases change nothing."""

    def __init__(self, settings: FakeSettings, info: ModelInfo) -> None:
        self._settings = settings
        self._info = info
        self._text_ids = list(settings.text.encode())
        self._live: dict[int, _Reply] = {}
        self._steps = 0
        self._peak_bytes = 0

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""
        return self._info.max_sequences - len(self._live)

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
    ) -> int:
        """Reserve a slot per choice. Nothing is ever cached, so it returns 0."""
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, choices=choices)
        prompt = _Prompt(token_ids, prefills=self._settings.prefill_ms > 0)
        failure = find_failure(token_ids) if self._settings.fail == ASKED else None
        for choice in choices:
            self._live[choice.sequence_id] = _Reply(prompt, choice, failure)
        if wants_prompt_logprobs:
            count = choices[0].sampling.top_logprobs or 0
            pairs = enumerate(prompt.token_ids[1:])
            entries = (invent_logprobs(token_id, at, count) for at, token_id in pairs)
            prompt.logprobs = (None, *entries)
        self._peak_bytes = max(self._peak_bytes, self.memory().active_bytes)
        return 0

    def step(self) -> list[StepResult]:
        """One token for every sequence whose prompt is done, then one prefill chunk."""
        if not self._live:
            return []
        self._steps += 1
        if self._settings.fail_step == self._steps:
            fail_as(self._settings.fail)
        if self._settings.fail == ASKED:
            self._fail_as_prompts_ask()
        decoding = [(key, r) for key, r in self._live.items() if not r.prompt.pending_tokens]
        if decoding and self._settings.step_ms:
            time.sleep(self._settings.step_ms / 1000)
        results = [self._sample(sequence_id, reply) for sequence_id, reply in decoding]
        self._prefill_chunk()
        return results

    def quiesce(self) -> None:
        """A step leaves nothing behind that runs."""

    def interrupt(self, sequence_id: int) -> None:
        """Steps last as long as they were told to."""

    def remove(self, sequence_id: int) -> None:
        """Free a slot; unknown ids are ignored."""
        self._live.pop(sequence_id, None)

    def shrink(self) -> None:
        """Nothing is kept."""

    def memory(self) -> Memory:
        """Weights plus a fixed price per live token."""
        live_tokens = sum(len(r.prompt.token_ids) + r.given for r in self._live.values())
        active = self._info.weight_bytes + live_tokens * KV_BYTES_PER_TOKEN
        return Memory(active, 0, max(active, self._peak_bytes))

    def close(self) -> None:
        """Drop every sequence."""
        self._live.clear()

    def _fail_as_prompts_ask(self) -> None:
        for reply in self._live.values():
            if reply.failure is not None and reply.given >= reply.failure[1]:
                fail_as(reply.failure[0])

    def _sample(self, sequence_id: int, reply: _Reply) -> StepResult:
        token_id = self._token_at(reply)
        count = reply.sampling.top_logprobs
        logprobs = None if count is None else invent_logprobs(token_id, reply.given, count)
        reply.given += 1
        finish = accept_token(
            token_id,
            reply.constraint,
            is_end=token_id == END_ID and not reply.sampling.ignore_eos,
            is_full=reply.given >= reply.sampling.max_tokens,
        )
        if finish is not None:
            del self._live[sequence_id]
        prompt_logprobs, reply.prompt.logprobs = reply.prompt.logprobs, None
        return StepResult(sequence_id, token_id, finish, logprobs, prompt_logprobs)

    def _token_at(self, reply: _Reply) -> int:
        own = self._own_token(reply)
        if own == END_ID and not reply.may_end:
            own = reply.word
        return own if reply.constraint is None else choose_allowed(reply.constraint, own)

    def _own_token(self, reply: _Reply) -> int:
        if self._text_ids:
            done = reply.given >= len(self._text_ids)
            return END_ID if done else self._text_ids[reply.given]
        return END_ID if reply.given >= self._settings.tokens else reply.word

    def _prefill_chunk(self) -> None:
        for reply in self._live.values():
            if reply.prompt.pending_tokens:
                time.sleep(self._settings.prefill_ms / 1000)
                left = reply.prompt.pending_tokens - self._settings.chunk
                reply.prompt.pending_tokens = max(0, left)
                return


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


class _ByteVocabulary:
    """The fake's tokens as llguidance reads a vocabulary; it encodes to bytes."""

    eos_token_id = END_ID
    bos_token_id = None
    special_token_ids = (END_ID,)
    tokens = tuple(TOKENS[token_id] for token_id in range(VOCABULARY_SIZE))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def find_failure(token_ids: Sequence[int]) -> tuple[str, int] | None:
    """The failure that a prompt asks for, and after how many tokens of its reply."""
    text = bytes(token_id for token_id in token_ids if token_id < END_ID).decode(errors="replace")
    found = ASKED_FAILURE.search(text)
    return None if found is None else (found[1], int(found[2]))


def fail_as(kind: str) -> None:
    """Fail in one of the ways that the settings name; ``asked`` and nothing are none."""
    if kind in {"", ASKED}:
        return
    if kind == "abort":
        os.abort()
    if kind == "exit":
        os._exit(7)
    if kind == "hang":
        time.sleep(3600)
    if kind == "oom":
        raise OutOfMemory("the fake device ran out of memory, as its settings ask")
    raise RuntimeError("the fake engine fails, as its settings ask")


def load(load: Load) -> LoadedEngine:
    """Bring a fake model up.

    Raises:
        UnsupportedModel: The settings cannot be read.
    """
    settings = parse_settings(load.source)
    time.sleep(settings.load_ms / 1000)
    if settings.fail_step == 0:
        fail_as(settings.fail)
    info = ModelInfo(
        context_tokens=min(settings.context, load.context_tokens or settings.context),
        max_sequences=settings.max_sequences or load.max_sequences,
        weight_bytes=settings.weight_bytes,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
    )
    grammars = LlgGrammarCompiler(
        TokenizerWrapper(_ByteVocabulary()), vocabulary_size=VOCABULARY_SIZE, end_ids=[END_ID]
    )
    return LoadedEngine(FakeEngine(settings, info), FakeTokenizer(), grammars, [])
