"""The deterministic engine that ships with LMX: no weights, exact timing, failures on request.

It is what the daemon is tested with and its overhead measured with, and what a client author can
run against. It knows nothing of HTTP; a reply is a pure function of prompt ids, seed and position.

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
| fail | | ``abort``, ``exit``, ``hang``, ``oom`` or ``raise``, at step number `fail_step` |
| fail_step | 0 | counted from 1; 0 means while loading |
"""

import codecs
import os
import time
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec
from msgspec import Meta

from lmx.engines.base import LoadedEngine, StepResult, check_room
from lmx.errors import InvalidRequest, OutOfMemory, UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Memory, ModelInfo, Sampling

END_ID = 256
FIRST_WORD_ID = 257
WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "isle",
    "jade", "kelp", "lumen", "maple", "north", "oak", "pearl", "quartz", "river",
    "slate", "tide", "umber", "vale", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip
KV_BYTES_PER_TOKEN = 1024

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
        """Text that became final with this id."""
        if token_id < END_ID:
            return self._decoder.decode(bytes((token_id,)))
        if token_id == END_ID:
            return ""
        return self._decoder.decode(f" {WORDS[token_id - FIRST_WORD_ID]}".encode())

    def flush(self) -> str:
        """What is still held, incomplete bytes as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class FakeTokenizer:
    """One id per UTF-8 byte, and a template any reader understands at once."""

    def render(self, messages: list[dict[str, Any]]) -> str:
        """``role: content`` lines. A message whose content is ``refuse me`` is refused."""
        if any(message.get("content") == "refuse me" for message in messages):
            raise InvalidRequest("the chat template refused this conversation", param="messages")
        lines = [f"{message['role']}: {message.get('content') or ''}\n" for message in messages]
        return "".join([*lines, "assistant:"])

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes."""
        return list(text.encode())

    def new_detokenizer(self) -> FakeDetokenizer:
        """A fresh detokenizer."""
        return FakeDetokenizer()


class _Reply:
    """One live sequence: what is left of its prompt and how far its reply is."""

    __slots__ = ("given", "limit", "pending_prompt_tokens", "prompt_tokens", "start")

    def __init__(self, token_ids: Sequence[int], sampling: Sampling, *, prefills: bool) -> None:
        seed = sampling.seed if sampling.temperature > 0 else 0
        self.start = crc32(repr((list(token_ids), seed)).encode())
        self.prompt_tokens = len(token_ids)
        self.pending_prompt_tokens = len(token_ids) if prefills else 0
        self.given = 0
        self.limit = sampling.max_tokens


class FakeEngine:
    """Continuous batching over scripted replies."""

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

    def add(self, sequence_id: int, token_ids: Sequence[int], sampling: Sampling) -> int:
        """Reserve a slot. Nothing is ever cached, so it returns 0."""
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, sampling=sampling)
        self._live[sequence_id] = _Reply(
            token_ids, sampling, prefills=self._settings.prefill_ms > 0
        )
        self._peak_bytes = max(self._peak_bytes, self.memory().active_bytes)
        return 0

    def step(self) -> list[StepResult]:
        """One token for every sequence whose prompt is done, then one prefill chunk."""
        if not self._live:
            return []
        self._steps += 1
        _fail_if_asked(self._settings, self._steps)
        decoding = [(key, r) for key, r in self._live.items() if not r.pending_prompt_tokens]
        if decoding and self._settings.step_ms:
            time.sleep(self._settings.step_ms / 1000)
        results = [self._sample(sequence_id, reply) for sequence_id, reply in decoding]
        self._prefill_chunk()
        return results

    def remove(self, sequence_id: int) -> None:
        """Free a slot; unknown ids are ignored."""
        self._live.pop(sequence_id, None)

    def memory(self) -> Memory:
        """Weights plus a fixed price per live token."""
        live_tokens = sum(reply.prompt_tokens + reply.given for reply in self._live.values())
        active = self._info.weight_bytes + live_tokens * KV_BYTES_PER_TOKEN
        return Memory(active, 0, max(active, self._peak_bytes))

    def close(self) -> None:
        """Drop every sequence."""
        self._live.clear()

    def _sample(self, sequence_id: int, reply: _Reply) -> StepResult:
        token_id = self._token_at(reply)
        reply.given += 1
        if token_id == END_ID:
            del self._live[sequence_id]
            return StepResult(sequence_id, token_id, "stop")
        if reply.given >= reply.limit:
            del self._live[sequence_id]
            return StepResult(sequence_id, token_id, "length")
        return StepResult(sequence_id, token_id, None)

    def _token_at(self, reply: _Reply) -> int:
        if self._text_ids:
            done = reply.given >= len(self._text_ids)
            return END_ID if done else self._text_ids[reply.given]
        if reply.given >= self._settings.tokens:
            return END_ID
        return FIRST_WORD_ID + (reply.start + reply.given * reply.given) % len(WORDS)

    def _prefill_chunk(self) -> None:
        for reply in self._live.values():
            if reply.pending_prompt_tokens:
                time.sleep(self._settings.prefill_ms / 1000)
                left = reply.pending_prompt_tokens - self._settings.chunk
                reply.pending_prompt_tokens = max(0, left)
                return


def _fail_if_asked(settings: FakeSettings, step: int) -> None:
    if not settings.fail or step != settings.fail_step:
        return
    if settings.fail == "abort":
        os.abort()
    if settings.fail == "exit":
        os._exit(7)
    if settings.fail == "hang":
        time.sleep(3600)
    if settings.fail == "oom":
        raise OutOfMemory("the fake device ran out of memory, as its settings ask")
    raise RuntimeError("the fake engine fails, as its settings ask")


def load(load: Load) -> LoadedEngine:
    """Bring a fake model up.

    Raises:
        UnsupportedModel: The settings cannot be read.
    """
    settings = parse_settings(load.source)
    time.sleep(settings.load_ms / 1000)
    _fail_if_asked(settings, 0)
    info = ModelInfo(
        context_tokens=min(settings.context, load.context_tokens or settings.context),
        max_sequences=settings.max_sequences or load.max_sequences,
        weight_bytes=settings.weight_bytes,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
    )
    return LoadedEngine(FakeEngine(settings, info), FakeTokenizer(), [])
