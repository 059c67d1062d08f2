"""The intake turns commands into work or refusals, in the order in which they came."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines import load_engine
from lmx.engines.base import Choice, LoadedEngine, PrefixUse
from lmx.errors import ContextTooLong, FrameError
from lmx.protocol.codec import encode_command
from lmx.protocol.messages import (
    Cancel,
    ChatPrompt,
    Command,
    Event,
    Generate,
    Inspect,
    Inspected,
    Load,
    Prompt,
    Rejected,
    Shutdown,
    Started,
    TextPrompt,
    TokenPrompt,
)
from lmx.protocol.values import Grammar, Sampling
from lmx.worker.intake import EXIT_BAD_FRAME, Intake, Served, Work, choose_max_tokens
from lmx.worker.scheduler import Ready

CONTEXT = 100
PROMPT_TOKENS = len("user: Hi\nassistant:")


class ScriptedChannel:
    """A channel whose commands are given beforehand and whose events are kept.

    Attributes:
        sent: Every list of events, in order.
    """

    def __init__(self, *commands: Command, error: FrameError | None = None) -> None:
        self.sent: list[Sequence[Event]] = []
        self._commands = commands
        self._error = error

    def commands(self) -> Iterator[Command]:
        yield from self._commands
        if self._error is not None:
            raise self._error

    def send(self, events: Sequence[Event]) -> None:
        self.sent.append(events)


def chat(content: str) -> ChatPrompt:
    """A conversation of one user message."""
    return ChatPrompt([{"role": "user", "content": content}])


def generate(sequence: int, content: str = "Hi", *, max_tokens: int = 10) -> Generate:
    """A request with one user message."""
    return Generate(sequence, chat(content), [Sampling(max_tokens)], ["END"])


def take(*commands: Command) -> tuple[ScriptedChannel, list[Work]]:
    """Run an intake over commands, with the fake model loaded; what it said and passed on."""
    channel = ScriptedChannel(*commands)
    intake = Intake(channel)
    intake.serve(Served(load_engine(Load("fake", f"context={CONTEXT}", 4))))
    assert 0 == intake.run()
    return channel, drain(intake.work)


def begun(number: int, *, reason: str = "off") -> Started:
    """What the daemon hears of a short conversation; the fake keeps no prefixes unless told to."""
    return Started(number, PROMPT_TOKENS, cache_reason=reason)


def drain(work: SimpleQueue[Work]) -> list[Work]:
    """Everything in a queue."""
    items = []
    while not work.empty():
        items.append(work.get_nowait())
    return items


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_budget_is_clamped_to_the_context(wanted: int, prompt: int, context: int) -> None:
    """A request gets what it wants or what is left, at least one token, or is refused."""
    if prompt >= context:
        with pytest.raises(ContextTooLong, match=f"{context} tokens.*{prompt} tokens") as caught:
            choose_max_tokens(wanted, prompt_tokens=prompt, context_tokens=context)
        assert "messages" == caught.value.param
    else:
        chosen = choose_max_tokens(wanted, prompt_tokens=prompt, context_tokens=context)
        assert 1 <= chosen <= wanted
        assert prompt + chosen <= context
        assert chosen in {wanted, context - prompt}


def test_a_request_is_started_and_passed_on() -> None:
    """The daemon hears `Started` with the prompt's length; the engine thread gets the ids."""
    channel, (work,) = take(generate(7))
    assert [[begun(7)]] == channel.sent
    assert isinstance(work, Ready)
    assert b"user: Hi\nassistant:" == bytes(work.token_ids)
    assert ([Choice(7, Sampling(10))], ["END"]) == (work.choices, work.stop)
    assert not work.wants_prompt_logprobs


def test_a_turn_is_passed_on() -> None:
    """The engine thread knows whose request it is, how urgent, and what its prompt may share."""
    asked = msgspec.structs.replace(generate(7), client="desk", priority=-5, salt="key")
    _, (work,) = take(asked)
    assert isinstance(work, Ready)
    assert ("desk", -5, PrefixUse("key")) == (work.client, work.priority, work.prefix)


def test_the_answer_is_clamped_before_the_engine_sees_it() -> None:
    """Prompt and budget handed on always fit the context."""
    _, (work,) = take(generate(1, max_tokens=10**9))
    assert isinstance(work, Ready)
    assert CONTEXT - PROMPT_TOKENS == work.choices[0].sampling.max_tokens


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (chat("x" * CONTEXT), "messages"),
        (TextPrompt("x" * CONTEXT), "prompt"),
        (TokenPrompt([1] * CONTEXT), "prompt"),
    ],
)
def test_a_prompt_over_the_context_is_rejected(prompt: Prompt, param: str) -> None:
    """The refusal holds the code and the field, and no work is made."""
    channel, work = take(Generate(3, prompt, [Sampling(10)], []))
    ((rejected,),) = channel.sent
    assert isinstance(rejected, Rejected)
    assert (3, "context_length_exceeded", param) == (
        rejected.sequence,
        rejected.code,
        rejected.param,
    )
    assert [] == work


@pytest.mark.parametrize(("max_tokens", "left"), [(50, 17), (5, 5)])
def test_a_client_may_limit_the_context(max_tokens: int, left: int) -> None:
    """Older turns go until the prompt leaves room, and prompt and answer stay within the limit."""
    talk = [{"role": "user", "content": "x" * 40}, {"role": "user", "content": "Hi"}]
    asked = Generate(1, ChatPrompt(talk), [Sampling(max_tokens)], [], context_tokens=36)
    _, (work,) = take(asked)
    assert isinstance(work, Ready)
    assert PROMPT_TOKENS == len(work.token_ids)
    assert min(max_tokens, 36 - PROMPT_TOKENS) == work.choices[0].sampling.max_tokens == left


@pytest.mark.parametrize("prompt", [chat("x" * 60), TextPrompt("x" * 60)])
def test_what_cannot_be_shortened_is_rejected(prompt: Prompt) -> None:
    """The refusal names the limit that the client gave."""
    channel, work = take(Generate(1, prompt, [Sampling(5)], [], context_tokens=50))
    ((rejected,),) = channel.sent
    assert isinstance(rejected, Rejected)
    assert "maximum context length is 50 tokens" in rejected.message
    assert [] == work


def test_a_conversation_the_template_refuses_is_rejected() -> None:
    """What the template says reaches the client, and the next request is served."""
    channel, work = take(generate(1, "refuse me"), generate(2))
    ((rejected,), (started,)) = channel.sent
    assert isinstance(rejected, Rejected)
    assert "the chat template refused this conversation" == rejected.message
    assert begun(2) == started
    assert 1 == len(work)


def test_choices_are_numbered_and_started_alike() -> None:
    """Each choice hears its own `Started` in one frame; the engine gets them with one prompt."""
    samplings = [Sampling(5, seed=seed) for seed in (1, 2, 3)]
    channel, (work,) = take(Generate(4, chat("Hi"), samplings, []))
    assert [[begun(number) for number in (4, 5, 6)]] == channel.sent
    assert isinstance(work, Ready)
    assert [Choice(4 + i, sampling) for i, sampling in enumerate(samplings)] == work.choices


def test_a_refusal_reaches_every_choice() -> None:
    """All choices of a request are rejected with the same words, and none is passed on."""
    channel, work = take(Generate(4, chat("refuse me"), [Sampling(5)] * 3, []))
    said = "the chat template refused this conversation"
    expected = [Rejected(n, "invalid-request", said, "messages") for n in (4, 5, 6)]
    assert ([expected], []) == (channel.sent, work)


def test_more_choices_than_slots_are_refused() -> None:
    """A request that could never get its slots is refused at once, for its field ``n``."""
    channel, work = take(Generate(1, chat("Hi"), [Sampling(5)] * 5, []))
    (rejected,) = channel.sent
    assert [(n, "invalid-request", "n") for n in range(1, 6)] == [
        (e.sequence, e.code, e.param) for e in rejected if isinstance(e, Rejected)
    ]
    assert [] == work


def test_each_choice_has_a_constraint_of_its_own() -> None:
    """A grammar's place in one answer says nothing about another answer."""
    grammar = Grammar("regex", "a|b", "guided_regex")
    _, (work,) = take(Generate(1, chat("Hi"), [Sampling(5)] * 2, [], grammar))
    assert isinstance(work, Ready)
    one, two = (choice.constraint for choice in work.choices)
    assert one is not None
    assert two is not None
    one.consume(ord("a"))
    assert (True, False) == (one.is_finished, two.is_finished)


def test_a_grammar_that_cannot_be_compiled_is_rejected() -> None:
    """The refusal names the field that the grammar came from."""
    grammar = Grammar("regex", "(", "guided_regex")
    channel, work = take(Generate(1, chat("Hi"), [Sampling(5)], [], grammar))
    ((rejected,),) = channel.sent
    assert isinstance(rejected, Rejected)
    assert ("invalid-request", "guided_regex", []) == (rejected.code, rejected.param, work)


@pytest.mark.parametrize("top_logprobs", [None, 0, 3])
def test_a_prompt_is_told_if_asked_for(top_logprobs: int | None) -> None:
    """The text comes with the start; log-probabilities only if the answer's are wanted too."""
    sampling = Sampling(5, top_logprobs=top_logprobs)
    request = Generate(1, TextPrompt("Hi"), [sampling], [], wants_prompt=True)
    channel, (work,) = take(request)
    reason = "off" if top_logprobs is None else "logprobs"
    assert [[Started(1, 2, prompt_text="Hi", cache_reason=reason)]] == channel.sent
    assert isinstance(work, Ready)
    assert (top_logprobs is not None) == work.wants_prompt_logprobs


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (TextPrompt("é!"), "é!"),
        (TokenPrompt(list("é!".encode())), "é!"),
        (chat("Hi"), "user: Hi\nassistant:"),
    ],
)
def test_an_inspection_gives_text_ids_and_tokens(prompt: Prompt, text: str) -> None:
    """It is answered at once and makes no work for the engine thread."""
    channel, work = take(Inspect(9, prompt))
    ids = list(text.encode())
    tokens = [bytes((i,)).decode("utf-8", "replace") for i in ids]
    assert ([[Inspected(9, text, ids, tokens)]], []) == (channel.sent, work)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [(chat("refuse me"), "messages"), (TokenPrompt([999]), "prompt")],
)
def test_an_inspection_may_be_refused(prompt: Prompt, param: str) -> None:
    """What the template refuses or the vocabulary lacks cannot be inspected either."""
    channel, work = take(Inspect(9, prompt))
    ((rejected,),) = channel.sent
    assert isinstance(rejected, Rejected)
    expected = (9, "invalid-request", param)
    assert expected == (rejected.sequence, rejected.code, rejected.param)
    assert [] == work


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt([])])
def test_nothing_may_be_inspected(prompt: Prompt) -> None:
    """No tokens are an answer, though nothing can be generated from them."""
    channel, _ = take(Inspect(1, prompt))
    assert [[Inspected(1, "", [], [])]] == channel.sent


def test_a_prompt_over_the_context_may_be_inspected() -> None:
    """Counting tokens is how a client learns that a prompt is too long."""
    channel, _ = take(Inspect(1, TextPrompt("x" * 2 * CONTEXT)))
    ((inspected,),) = channel.sent
    assert isinstance(inspected, Inspected)
    assert 2 * CONTEXT == len(inspected.token_ids)


def test_order_is_kept() -> None:
    """A cancellation never overtakes the request it is for."""
    _, work = take(generate(1), Cancel(1), generate(2), Shutdown())
    kinds = [type(item).__name__ for item in work]
    assert ["Ready", "Cancel", "Ready", "Shutdown"] == kinds


def test_a_load_goes_to_the_loading_thread() -> None:
    """The load command is no work for the engine; it comes before there is one."""
    load = Load("fake", "", 1)
    intake = Intake(ScriptedChannel(load))
    assert 0 == intake.run()
    assert load == intake.loads.get_nowait()
    assert intake.work.empty()


def test_a_bad_frame_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon that speaks something else ends the worker, which says why on standard error."""
    assert EXIT_BAD_FRAME == Intake(ScriptedChannel(error=FrameError("gibberish"))).run()
    assert "gibberish" in capsys.readouterr().err


def test_a_request_before_the_load_is_a_bad_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """No well-behaved daemon asks before it heard `Loaded`."""
    assert EXIT_BAD_FRAME == Intake(ScriptedChannel(generate(1))).run()
    assert "before the model was loaded" in capsys.readouterr().err


def test_an_inspection_before_the_load_is_a_bad_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does it inspect a prompt before that."""
    assert EXIT_BAD_FRAME == Intake(ScriptedChannel(Inspect(1, chat("Hi")))).run()
    assert "before the model was loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("messages", "status", "said"), [([{}], 1, "KeyError: 'role'"), (None, 0, "")]
)
def test_however_the_intake_ends_so_does_the_worker(
    messages: list[dict[str, str]] | None, status: int, said: str
) -> None:
    """An unforeseen error and a closed pipe both end the process, not just its intake thread."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "lmx.worker", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as it:
        theirs.close()
        ours.settimeout(20)
        ours.sendall(encode_command(Load("fake", "", 1)))
        assert ours.recv(65536)  # it is loaded
        if messages is None:
            ours.shutdown(socket.SHUT_WR)
        else:
            ours.sendall(encode_command(Generate(1, ChatPrompt(messages), [Sampling(1)], [])))
        assert status == it.wait(timeout=20)
        assert it.stderr is not None
        assert said in it.stderr.read().decode()


def test_a_bias_on_a_token_that_does_not_exist_is_rejected() -> None:
    """It could change nothing, so the id is named and no work is made."""
    sampling = Sampling(10, logit_bias={65: 1.0, 10**6: 2.0})
    channel, work = take(Generate(3, chat("Hi"), [sampling], []))
    [[refusal]] = channel.sent
    assert isinstance(refusal, Rejected)
    assert (3, "logit_bias.1000000", []) == (refusal.sequence, refusal.param, work)


def test_the_daemon_hears_what_is_there_already() -> None:
    """How much of a prompt is known, and why not more; a line that changes by itself is told."""
    loaded = load_engine(Load("fake", "context=2000&keep=2000&tokens=3", 4))
    assert isinstance(loaded, LoadedEngine)
    served = Served(loaded)
    rules = "Answer in one word. " * 20

    def told(system: str, salt: str = "") -> tuple[int, str]:
        prompt = ChatPrompt(
            [{"role": "system", "content": system}, {"role": "user", "content": "Hi"}]
        )
        (started,), ready = served.accept(Generate(1, prompt, [Sampling(5)], [], salt=salt))
        loaded.engine.add(ready.choices, ready.token_ids, prefix=ready.prefix)
        while loaded.engine.step():
            pass
        return started.cached_tokens, started.cache_reason

    long = f"{rules}\nToday is 2026-11-27.\nBe kind."
    size = len(f"system: {long}\nuser: Hi\nassistant:")
    assert (0, "no-entry") == told(long)
    assert (size - 1, "full") == told(long)
    assert (0, "no-entry") == told(long, salt="other")
    known = len(f"system: {rules}\nToday is 2026-11-2")
    assert (known, "volatile") == told(long.replace("27", "28"))
    known = len(f"system: {rules}\n")
    assert (known, "diverged") == told(f"{rules}\nBe terse.")
