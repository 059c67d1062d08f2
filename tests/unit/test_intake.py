"""The intake turns commands into work or refusals, in the order in which they came."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines import load_engine
from lmx.errors import ContextTooLong, FrameError
from lmx.protocol.codec import encode_command
from lmx.protocol.messages import (
    Cancel,
    Command,
    Event,
    Generate,
    Load,
    Rejected,
    Shutdown,
    Started,
)
from lmx.protocol.values import Sampling
from lmx.worker.intake import EXIT_BAD_FRAME, Intake, Work, choose_max_tokens
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


def generate(sequence: int, content: str = "Hi", *, max_tokens: int = 10) -> Generate:
    """A request with one user message."""
    message = {"role": "user", "content": content}
    return Generate(sequence, [message], Sampling(max_tokens), ["END"])


def take(*commands: Command) -> tuple[ScriptedChannel, list[Work]]:
    """Run an intake over commands, with the fake model loaded; what it said and passed on."""
    channel = ScriptedChannel(*commands)
    intake = Intake(channel)
    intake.serve(load_engine(Load("fake", f"context={CONTEXT}", 4)))
    assert 0 == intake.run()
    return channel, drain(intake.work)


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
    assert [[Started(7, PROMPT_TOKENS)]] == channel.sent
    assert isinstance(work, Ready)
    assert (7, b"user: Hi\nassistant:") == (work.sequence, bytes(work.token_ids))
    assert (Sampling(10), ["END"]) == (work.sampling, work.stop)


def test_the_answer_is_clamped_before_the_engine_sees_it() -> None:
    """Prompt and budget handed on always fit the context."""
    _, (work,) = take(generate(1, max_tokens=10**9))
    assert isinstance(work, Ready)
    assert CONTEXT - PROMPT_TOKENS == work.sampling.max_tokens


def test_a_prompt_over_the_context_is_rejected() -> None:
    """The refusal holds the code and the field, and no work is made."""
    channel, work = take(generate(3, "x" * CONTEXT))
    ((rejected,),) = channel.sent
    assert isinstance(rejected, Rejected)
    assert (3, "context_length_exceeded", "messages") == (
        rejected.sequence,
        rejected.code,
        rejected.param,
    )
    assert [] == work


def test_a_conversation_the_template_refuses_is_rejected() -> None:
    """What the template says reaches the client, and the next request is served."""
    channel, work = take(generate(1, "refuse me"), generate(2))
    ((rejected,), (started,)) = channel.sent
    assert isinstance(rejected, Rejected)
    assert "the chat template refused this conversation" == rejected.message
    assert Started(2, PROMPT_TOKENS) == started
    assert 1 == len(work)


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
            ours.sendall(encode_command(Generate(1, messages, Sampling(1), [])))
        assert status == it.wait(timeout=20)
        assert it.stderr is not None
        assert said in it.stderr.read().decode()
