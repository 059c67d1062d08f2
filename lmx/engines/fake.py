"""The deterministic engine that ships with LMX: no weights, exact timing, failures on request.

It is what the daemon is tested with and its overhead measured with, and what a client author can
run against. It knows nothing of HTTP; a reply is a pure function of prompt ids, seed, position and
constraint.

    fake:NAME?step_ms=5&load_ms=200&tokens=64&max_sequences=32&context=4096

| key | default | meaning |
|---|---|---|
| step_ms | 0 | duration of one decode step |
| prefill_ms | 0 | duration of `chunk` prompt tokens, of fewer in proportion; 0 makes prefill free |
| chunk | 512 | prompt tokens per prefill chunk |
| load_ms | 0 | duration of the load |
| tokens | 64 | reply length, if `text` is not given |
| text | | the reply itself, byte by byte |
| then | | the reply to a prompt that holds a tool's result, byte by byte |
| max_sequences | the server's | slots |
| context | 4096 | context in tokens |
| keep | 0 | tokens of prompts and answers that are kept for later prompts |
| weight_bytes | 0 | what the model claims to weigh |
| fail | | ``abort``, ``exit``, ``hang``, ``oom`` or ``raise``, at step number `fail_step`; or \
``asked``: a prompt that says ``fail:abort:3`` does that once it has three tokens |
| fail_step | 0 | counted from 1; 0 means while loading |
"""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec
from llguidance import TokenizerWrapper
from msgspec import Meta

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    LoadedEngine,
    PrefillShare,
    PrefixOutlook,
    PrefixUse,
    StepResult,
    TokenLogprobs,
    accept_token,
    check_room,
)
from lmx.engines.fake_failures import ASKED, fail_as, find_failure
from lmx.engines.fake_tokens import (
    END_ID,
    FIRST_WORD_ID,
    VOCABULARY_SIZE,
    WORDS,
    ByteVocabulary,
    FakeTokenizer,
    choose_allowed,
    has_tool_result,
    invent_logprobs,
)
from lmx.engines.grammar import LlgGrammarCompiler
from lmx.engines.prefix.store import PrefixStore
from lmx.engines.prefix.tree import make_key
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Kept, Memory, ModelInfo

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
    then: str = ""
    max_sequences: Count | None = None
    context: Count = 4096
    keep: Annotated[int, Meta(ge=0)] = 0
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


class _Tokens(NamedTuple):
    """What is kept of tokens: their number."""

    number: int

    @property
    def size_bytes(self) -> int:
        """Each token has its price."""
        return self.number * KV_BYTES_PER_TOKEN

    def split(self, tokens: int) -> tuple["_Tokens", "_Tokens"]:
        """Both halves."""
        return _Tokens(tokens), _Tokens(self.number - tokens)


class _Prompt:
    """What the choices of one `add` share: the prompt and how much of it is left to prefill."""

    __slots__ = ("logprobs", "pending_tokens", "salt", "skipped_tokens", "token_ids")

    def __init__(
        self, token_ids: Sequence[int], salt: str, skipped_tokens: int, *, prefills: bool
    ) -> None:
        self.token_ids = list(token_ids)
        self.salt = salt
        self.skipped_tokens = skipped_tokens
        self.pending_tokens = len(token_ids) - skipped_tokens if prefills else 0
        self.logprobs: tuple[TokenLogprobs | None, ...] | None = None


class _Reply:
    """One live sequence: its prompt, its settings and how far its reply is."""

    __slots__ = ("answer", "constraint", "failure", "prompt", "sampling", "start", "text_ids")

    def __init__(
        self,
        prompt: _Prompt,
        choice: Choice,
        text_ids: bytes,
        *,
        failure: tuple[str, int] | None,
    ) -> None:
        seed = choice.sampling.seed if choice.sampling.temperature > 0 else 0
        self.start = crc32(repr((prompt.token_ids, seed)).encode())
        self.prompt = prompt
        self.text_ids = text_ids
        self.sampling = choice.sampling
        self.constraint = choice.constraint
        self.failure = failure
        self.answer: list[int] = []

    @property
    def given(self) -> int:
        """Tokens of the answer so far."""
        return len(self.answer)

    @property
    def word(self) -> int:
        """The word the reply has at this position, if it is made of words."""
        return FIRST_WORD_ID + (self.start + self.given * self.given) % len(WORDS)

    @property
    def may_end(self) -> bool:
        """The end token can be sampled here."""
        return not self.sampling.ignore_eos and self.given >= self.sampling.min_tokens


class FakeEngine:
    """Continuous batching over scripted replies. Penalties and biases change nothing.

    Args:
        settings: What it pretends.
        info: What the daemon is told.
        sleep: Lets so many seconds pass.
    """

    def __init__(
        self,
        settings: FakeSettings,
        info: ModelInfo,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._info = info
        self._sleep = sleep
        self._live: dict[int, _Reply] = {}
        self._kept: PrefixStore[_Tokens, _Tokens] = PrefixStore(settings.keep * KV_BYTES_PER_TOKEN)
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
        prefix: PrefixUse = SHARES_FREELY,
    ) -> None:
        """Reserve a slot per choice."""
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, choices=choices)
        skipped = 0
        if not wants_prompt_logprobs:
            skipped = self._kept.usable_tokens(make_key(token_ids), prefix.salt)
        prompt = _Prompt(token_ids, prefix.salt, skipped, prefills=self._settings.prefill_ms > 0)
        failure = find_failure(token_ids) if self._settings.fail == ASKED else None
        has_result = bool(self._settings.then) and has_tool_result(token_ids)
        text_ids = (self._settings.then if has_result else self._settings.text).encode()
        for choice in choices:
            self._live[choice.sequence_id] = _Reply(prompt, choice, text_ids, failure=failure)
        if wants_prompt_logprobs:
            count = choices[0].sampling.top_logprobs or 0
            pairs = enumerate(prompt.token_ids[1:])
            entries = (invent_logprobs(token_id, at, count) for at, token_id in pairs)
            prompt.logprobs = (None, *entries)
        self._peak_bytes = max(self._peak_bytes, self.memory().active_bytes)

    def foresee(
        self,
        token_ids: Sequence[int],
        prefix: PrefixUse,
    ) -> PrefixOutlook:
        """How much of a prompt is kept. From any thread."""
        return self._kept.foresee(token_ids, prefix)

    @property
    def chunk_tokens(self) -> int:
        """As the settings say."""
        return self._settings.chunk

    def prefilling(self) -> dict[int, int]:
        """Prompts that are not computed yet, by their first live choice."""
        names: dict[int, tuple[int, int]] = {}
        for sequence_id, reply in self._live.items():
            if reply.prompt.pending_tokens:
                names.setdefault(id(reply.prompt), (sequence_id, reply.prompt.pending_tokens))
        return dict(names.values())

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
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
            self._sleep(self._settings.step_ms / 1000)
        results = [self._sample(sequence_id, reply) for sequence_id, reply in decoding]
        self._prefill(self._everything() if shares is None else shares)
        return results

    def quiesce(self) -> None:
        """A step leaves nothing behind that runs."""

    def rest(self) -> bool:
        """There is nothing that waits."""
        return False

    def interrupt(self, sequence_id: int) -> None:
        """Steps last as long as they were told to."""

    def remove(self, sequence_id: int) -> None:
        """Free a slot; unknown ids are ignored."""
        reply = self._live.pop(sequence_id, None)
        if reply is not None and not reply.prompt.pending_tokens:
            self._keep(reply)

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Forget what is kept."""
        self._kept.shrink(prefix_cache_bytes)

    def memory(self) -> Memory:
        """Weights plus a fixed price per token, live or kept."""
        live_tokens = sum(len(r.prompt.token_ids) + r.given for r in self._live.values())
        active = self._info.weight_bytes + live_tokens * KV_BYTES_PER_TOKEN
        kept = Kept(*self._kept.state)
        return Memory(active, kept.size_bytes, max(active, self._peak_bytes), kept)

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
        reply.answer.append(token_id)
        finish = accept_token(
            token_id,
            reply.constraint,
            is_end=token_id == END_ID and not reply.sampling.ignore_eos,
            is_full=reply.given >= reply.sampling.max_tokens,
        )
        if finish is not None:
            self.remove(sequence_id)
        prompt_logprobs, reply.prompt.logprobs = reply.prompt.logprobs, None
        skipped = reply.prompt.skipped_tokens if reply.given == 1 else 0
        return StepResult(
            sequence_id, token_id, finish, logprobs, prompt_logprobs, cached_tokens=skipped
        )

    def _keep(self, reply: _Reply) -> None:
        """Of an answer, all but the last token, as the engines with caches do."""
        ids = make_key([*reply.prompt.token_ids, *reply.answer[:-1]])
        wanted = self._kept.wanted(ids, reply.prompt.salt)
        if wanted is not None:
            segment = _Tokens(len(ids) - wanted.start)
            self._kept.keep(ids, reply.prompt.salt, segment=segment)

    def _token_at(self, reply: _Reply) -> int:
        own = self._own_token(reply)
        if own == END_ID and not reply.may_end:
            own = reply.word
        return own if reply.constraint is None else choose_allowed(reply.constraint, own)

    def _own_token(self, reply: _Reply) -> int:
        if reply.text_ids:
            done = reply.given >= len(reply.text_ids)
            return END_ID if done else reply.text_ids[reply.given]
        return END_ID if reply.given >= self._settings.tokens else reply.word

    def _everything(self) -> list[PrefillShare]:
        return [PrefillShare(name, left) for name, left in self.prefilling().items()]

    def _prefill(self, shares: Sequence[PrefillShare]) -> None:
        room = self._settings.chunk
        for name, tokens in shares:
            prompt = self._live[name].prompt if name in self._live else None
            done = 0 if prompt is None else min(tokens, room, prompt.pending_tokens)
            if prompt is not None and done:
                self._sleep(self._settings.prefill_ms / 1000 * done / self._settings.chunk)
                prompt.pending_tokens -= done
                room -= done


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
        TokenizerWrapper(ByteVocabulary()), vocabulary_size=VOCABULARY_SIZE, end_ids=[END_ID]
    )
    return LoadedEngine(FakeEngine(settings, info), FakeTokenizer(), grammars, [])
