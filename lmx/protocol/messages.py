"""The whole vocabulary between daemon and worker, on one screen.

Down go commands, one per frame. Up go lists of events: all events of one engine step travel in
one frame. Per request the grammar is ``Rejected`` or ``Started Delta* Finished``; `lmx.daemon.link`
checks it. Tags are small integers because they are on every token's path.
"""

from typing import Any

from msgspec import Struct

from lmx.protocol.values import (
    FinishReason,
    GgufOptions,
    Grammar,
    Memory,
    ModelInfo,
    Pacing,
    PrefixDisk,
    Purpose,
    Sampling,
    Timings,
    TokenLogprob,
    Usage,
)

# EX_OSERR of sysexits.h: how a worker exits when the device ran out of memory inside a step. After
# that it can send nothing any more, so the exit status is the message.
EXIT_OUT_OF_MEMORY = 71


class Load(Struct, frozen=True, array_like=True, tag=0):
    """First frame of every worker: bring this model up.

    Attributes:
        engine: ``mlx``, ``llama`` or ``fake``.
        source: Model directory, GGUF file, or the query string of a fake model.
        max_sequences: Upper bound of sequences decoded together.
        context_tokens: Upper bound of the context, or `None` for the model's own.
        dialect: Spelling of tools and reasoning, as settings name it; empty to find it out.
        gguf: How a GGUF file is loaded; the other engines do not read it.
        kv_cache_bytes: What the keys and values of all running requests together may take, or
            `None` for no limit but the device's.
        lease: Whether the worker may compute only while it holds the device lease.
        purpose: What the model is to answer.
        prefix_cache_bytes: What may be kept of prompts and answers for later requests; 0 keeps
            nothing.
        gap_target_ms: Longest gap between two tokens of a running stream while prompts are computed
            beside; `None` for the device's usual one.
        kv_bits: Of one value in its KV cache: 8, or `None` for the engine's own float type.
        speculation: A sequence that runs alone may check drafts.
        draft: Source of a small model of the same vocabulary that drafts; empty for none.
        prefix_disk: Where prompts and answers are kept on disk, too; `None` for nowhere.
    """

    engine: str
    source: str
    max_sequences: int
    context_tokens: int | None = None
    dialect: str = ""
    gguf: GgufOptions = GgufOptions()
    kv_cache_bytes: int | None = None
    lease: bool = False
    purpose: Purpose = "generation"
    prefix_cache_bytes: int = 0
    gap_target_ms: float | None = None
    kv_bits: int | None = None
    speculation: bool = True
    draft: str = ""
    prefix_disk: PrefixDisk | None = None


class ChatPrompt(Struct, frozen=True, array_like=True, tag=0):
    """A conversation for the chat template.

    Attributes:
        messages: As the template takes them.
        tools: Function tools the model may call, as the template takes them.
        template_kwargs: Further variables for the template.
        must_call: The answer is one or more calls of these tools, enforced by grammar.
        may_call_many: Several calls are allowed in one answer.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    template_kwargs: dict[str, Any] = {}
    must_call: bool = False
    may_call_many: bool = True


class TextPrompt(Struct, frozen=True, array_like=True, tag=1):
    """Text as it is; special tokens in it count as such.

    Attributes:
        text: The text.
        add_beginning: Put the beginning token first where the model's tokenizer does.
    """

    text: str
    add_beginning: bool = True


class TokenPrompt(Struct, frozen=True, array_like=True, tag=2):
    """Token ids as they are."""

    token_ids: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Generate(Struct, frozen=True, array_like=True, tag=1):
    """Answer a prompt, once or several times.

    Choice ``i`` has the sequence number ``sequence + i``; each choice has its own events.

    Attributes:
        sequence: Number unique on this pipe, of the first choice.
        prompt: What to answer.
        samplings: How tokens are chosen, one per choice. ``max_tokens`` is clamped to the context
            by the worker.
        stop: Strings that end the text and never appear in it.
        grammar: What the answer must match, after the reasoning if there is any.
        thinking_budget: Tokens after which reasoning is ended by force; `None` for no limit.
        wants_prompt: Report the prompt's text and, with ``top_logprobs``, its log-probabilities.
        may_stop_thinking: A `StopThinking` may come.
        client: Who asks: requests of one client share a turn with those of others.
        priority: Lower numbers go first.
        salt: Only requests of the same salt share what was computed of their prompts.
        context_tokens: What prompt and answer may have together, less than the model's context;
            older turns of a conversation are left out for it. `None` for no limit of its own.
    """

    sequence: int
    prompt: Prompt
    samplings: list[Sampling]
    stop: list[str]
    grammar: Grammar | None = None
    thinking_budget: int | None = None
    wants_prompt: bool = False
    may_stop_thinking: bool = False
    client: str = ""
    priority: int = 0
    salt: str = ""
    context_tokens: int | None = None


class Cancel(Struct, frozen=True, array_like=True, tag=2):
    """Free the slot of a request before the next step. Unknown sequences are ignored."""

    sequence: int


class Shutdown(Struct, frozen=True, array_like=True, tag=3):
    """Close the engine and exit with status 0."""


class Inspect(Struct, frozen=True, array_like=True, tag=4):
    """Say what a prompt is as text and as token ids, and generate nothing."""

    sequence: int
    prompt: Prompt


class Prepare(Struct, frozen=True, array_like=True, tag=5):
    """Import an engine now, so that a later `Load` need not."""

    engine: str


class Shrink(Struct, frozen=True, array_like=True, tag=6):
    """Give back memory that is only kept for speed.

    Attributes:
        prefix_cache_bytes: Keep no more of prompts than this from now on, and nothing else is given
            back; `None` to give everything back and go on as before.
    """

    prefix_cache_bytes: int | None = None


class LeaseGranted(Struct, frozen=True, array_like=True, tag=7):
    """The worker may compute from now on.

    Attributes:
        slice_s: Seconds that it may keep the lease for after somebody else wants it.
        is_wanted_back: Somebody else wants it already.
    """

    slice_s: float
    is_wanted_back: bool


class LeaseWantedBack(Struct, frozen=True, array_like=True, tag=8):
    """Somebody else wants the lease: release it once the slice is over or nothing is to do."""


class StopThinking(Struct, frozen=True, array_like=True, tag=9):
    """End a choice's reasoning with the next token and go on with the answer.

    Without effect on a request that did not announce it, on one that does not reason, and on one
    that is answering already. Unknown sequences are ignored.
    """

    sequence: int


class Embed(Struct, frozen=True, array_like=True, tag=10):
    """Turn texts into vectors; answered by `Started`, then `Rows` in any order, then `Finished`.

    Attributes:
        sequence: Number unique on this pipe.
        inputs: Texts, or token ids as they are.
        dimensions: Keep so many leading numbers of each vector, normalised again; `None` for all.
        truncate: Cut inputs that are too long instead of refusing them.
    """

    sequence: int
    inputs: list[str | list[int]]
    dimensions: int | None = None
    truncate: bool = False


class Score(Struct, frozen=True, array_like=True, tag=11):
    """Score each pair of a query and a document, in 0 to 1; answered as `Embed` is.

    A reranking model reads both together. An embedding model gives the cosine of their vectors.

    Attributes:
        sequence: Number unique on this pipe.
        pairs: Query and document.
        truncate: Cut documents that are too long instead of refusing them.
    """

    sequence: int
    pairs: list[tuple[str, str]]
    truncate: bool = True


LeaseCommand = LeaseGranted | LeaseWantedBack
# What a client asks for; each has the sequence number of its first answer.
Ask = Generate | Embed | Score


def choice_count(ask: Ask) -> int:
    """How many answers it has, each with events of its own."""
    return len(ask.samplings) if isinstance(ask, Generate) else 1


Command = Load | Ask | Cancel | Shutdown | Inspect | Prepare | Shrink | LeaseCommand | StopThinking


class Loaded(Struct, frozen=True, array_like=True, tag=0):
    """The model answers. `notes` are sentences the daemon logs, such as missing libraries."""

    info: ModelInfo
    memory: Memory
    notes: list[str]


class LoadFailed(Struct, frozen=True, array_like=True, tag=1):
    """The model cannot be brought up; the worker exits after this."""

    code: str
    message: str


class Started(Struct, frozen=True, array_like=True, tag=2):
    """Tokenised and within the context; prefill has not begun.

    Attributes:
        dialect: How to read the answer: a tool family of `lmx.text.dialects`.
        reasoning: The reasoning markers to look for: a row of `lmx.text.reasoning`, or ``none``.
        in_reasoning: The prompt has opened the reasoning already.
        prompt_text: The prompt as text, if it was asked for.
        cached_tokens: Leading prompt tokens that are computed already, as it looks now.
        cache_reason: Why not all of them, in a word; empty where nothing is said about it.
    """

    sequence: int
    prompt_tokens: int
    dialect: str = "none"
    reasoning: str = "none"
    in_reasoning: bool = False
    prompt_text: str | None = None
    cached_tokens: int = 0
    cache_reason: str = ""


class Rejected(Struct, frozen=True, array_like=True, tag=3):
    """Refused before any device work; terminal."""

    sequence: int
    code: str
    message: str
    param: str | None = None


class Delta(Struct, frozen=True, array_like=True, tag=4):
    """Text that will not be taken back, and how many tokens made it."""

    sequence: int
    text: str
    token_count: int
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: list[TokenLogprob] = []


class Finished(Struct, frozen=True, array_like=True, tag=5):
    """The end of a started request; terminal.

    `code` and `message` say why for ``error``, `stop` is the stop string that ended the answer.
    """

    sequence: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    code: str | None = None
    message: str | None = None
    stop: str | None = None


class Inspected(Struct, frozen=True, array_like=True, tag=6):
    """A prompt both ways; `tokens` are the texts of the single ids."""

    sequence: int
    text: str
    token_ids: list[int]
    tokens: list[str]


class Vitals(Struct, frozen=True, array_like=True, tag=7):
    """A step that delivered nothing went by, or computed of prompts; at most two in a second.

    Attributes:
        memory: Of the device.
        pacing: How prompts are computed, where any were.
    """

    memory: Memory
    pacing: Pacing | None = None


class LeaseWanted(Struct, frozen=True, array_like=True, tag=8):
    """There is work and no lease. Sent once; answered by `LeaseGranted`."""


class LeaseReleased(Struct, frozen=True, array_like=True, tag=9):
    """The device has nothing of this worker to do, and gets nothing without another grant.

    Attributes:
        wants_more: The same as a `LeaseWanted` right after it.
    """

    wants_more: bool


class Rows(Struct, frozen=True, array_like=True, tag=10):
    """Results of some of a request's inputs.

    Attributes:
        indices: Which inputs, from 0.
        values: For each of them as many little-endian float32 numbers: a vector, or one score.
    """

    sequence: int
    indices: list[int]
    values: bytes


LeaseEvent = LeaseWanted | LeaseReleased
RequestEvent = Started | Rejected | Delta | Rows | Finished
Event = Loaded | LoadFailed | RequestEvent | Inspected | Vitals | LeaseEvent
