"""The mailbox of one answer: it checks the grammar, merges text and never blocks."""

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.reply import MERGE_AFTER, ReplyStream
from lmx.errors import ContextTooLong, FrameError, LmxError, WorkerBroken
from lmx.protocol.messages import Delta, Rejected, RequestEvent, Started
from lmx.protocol.values import TokenLogprob
from tests.fakes import delta, finished

STARTED = Started(1, 9)
REJECTED = Rejected(1, "context_length_exceeded", "too long", "messages")
END = finished(1)


def test_a_whole_answer() -> None:
    """Text adds up until it is taken; the end is kept."""
    reply = ReplyStream(1)
    for event in (STARTED, delta(1, "a"), delta(1, "b")):
        reply.deliver(event)
    assert ("ab", STARTED, False) == (reply.take_text(), reply.started, reply.is_over)
    assert "" == reply.take_text()
    reply.deliver(delta(1, "c"))
    reply.deliver(END)
    assert ("c", True, END, None) == (reply.take_text(), reply.is_over, reply.end, reply.error)


@pytest.mark.parametrize(
    "events",
    [
        [delta(1, "a")],
        [END],
        [STARTED, STARTED],
        [STARTED, REJECTED],
        [STARTED, END, END],
        [STARTED, END, delta(1, "a")],
        [STARTED, END, STARTED],
    ],
    ids=lambda events: " ".join(type(event).__name__ for event in events),
)
def test_events_out_of_order_are_refused(events: Sequence[RequestEvent]) -> None:
    """The last of these events is against the grammar, raises and changes nothing."""
    reply = ReplyStream(1)
    for event in events[:-1]:
        reply.deliver(event)
    before = (reply.is_over, reply.started, reply.end, reply.error)
    with pytest.raises(FrameError, match="sequence 1"):
        reply.deliver(events[-1])
    assert before == (reply.is_over, reply.started, reply.end, reply.error)
    assert "" == reply.take_text()


@given(st.lists(st.sampled_from([STARTED, REJECTED, delta(1, "a"), END]), max_size=6))
def test_the_grammar_is_rejected_or_started_deltas_finished(events: list[RequestEvent]) -> None:
    """Exactly the prefixes of the grammar are accepted; after a rejection all is ignored."""
    reply = ReplyStream(1)
    letters = ""
    for event in events:
        letters += type(event).__name__[0]
        is_legal = letters.startswith("R") or letters in {"S" + "D" * n for n in range(6)} | {
            "S" + "D" * n + "F" for n in range(6)
        }
        if not is_legal:
            with pytest.raises(FrameError):
                reply.deliver(event)
            return
        reply.deliver(event)
    assert reply.is_over == (letters.startswith("R") or letters.endswith("F"))


@given(st.lists(st.text(max_size=3) | st.none(), max_size=10))
def test_no_text_is_lost_or_doubled(schedule: list[str | None]) -> None:
    """However deliveries and takings interleave, the text comes out whole and in order."""
    reply = ReplyStream(1)
    reply.deliver(STARTED)
    taken = ""
    for text in schedule:
        if text is None:
            taken += reply.take_text()
        else:
            reply.deliver(delta(1, text))
    taken += reply.take_text()
    assert "".join(text for text in schedule if text) == taken


async def test_waiting_for_the_start() -> None:
    """`wait_started` returns with the first event, not before, and at once afterwards."""
    reply = ReplyStream(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait_started)
        await wait_all_tasks_blocked()
        assert 1 == len(nursery.child_tasks)
        reply.deliver(STARTED)
    assert STARTED == await reply.wait_started()


async def test_a_rejection_is_raised_as_the_error_it_is() -> None:
    """A refused request raises the class its code names, with message and parameter."""
    reply = ReplyStream(1)
    reply.deliver(REJECTED)
    with pytest.raises(ContextTooLong, match="too long") as caught:
        await reply.wait_started()
    assert "messages" == caught.value.param


async def test_a_failure_wakes_who_waits_for_the_start() -> None:
    """A worker that dies before the first event ends the wait with the reason."""
    reply = ReplyStream(1)
    with pytest.RaisesGroup(WorkerBroken):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply.wait_started)
            await wait_all_tasks_blocked()
            reply.fail(WorkerBroken("it died"))


async def test_every_delivery_wakes_the_consumer() -> None:
    """A consumer that looks after each wake-up sees every change."""
    reply = ReplyStream(1)
    heard: list[str] = []

    async def consume() -> None:
        while not reply.is_over:
            await reply.wait_change()
            heard.append(reply.take_text())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for event in (STARTED, delta(1, "a"), delta(1, "b"), END):
            await wait_all_tasks_blocked()
            reply.deliver(event)
    assert ["", "a", "b", ""] == heard


def test_the_fast_lane_is_called_after_each_delivery() -> None:
    """`on_change` runs inside `deliver` and `fail`, when the event can be seen."""
    reply = ReplyStream(1)
    heard: list[tuple[str, bool]] = []
    reply.on_change = lambda: heard.append((reply.take_text(), reply.is_over))
    for event in (STARTED, delta(1, "a")):
        reply.deliver(event)
    reply.fail(WorkerBroken("it died"))
    assert [("", False), ("a", False), ("", True)] == heard


def test_the_first_ending_counts() -> None:
    """A failure after the end changes nothing, nor does a second failure."""
    reply = ReplyStream(1)
    reply.deliver(STARTED)
    reply.deliver(END)
    reply.fail(WorkerBroken("late"))
    assert (END, None) == (reply.end, reply.error)
    first, second = LmxError("first"), LmxError("second")
    other = ReplyStream(2)
    other.fail(first)
    other.fail(second)
    assert first is other.error


def test_after_a_failure_the_worker_may_go_on_talking() -> None:
    """Events of an answer that the daemon has ended are ignored, not condemned."""
    reply = ReplyStream(1)
    reply.deliver(STARTED)
    reply.fail(LmxError("stopping"))
    reply.deliver(delta(1, "late"))
    reply.deliver(END)
    assert ("", None) == (reply.take_text(), reply.end)


def score(token: str) -> TokenLogprob:
    """A token's log-probability."""
    return TokenLogprob(token, token.encode(), -0.5)


def scored(token: str, *prompt: str) -> Delta:
    """A token with its log-probability, and those of prompt tokens."""
    return Delta(1, token, 1, [score(token)], [score(text) for text in prompt])


def test_logprobs_add_up_until_taken() -> None:
    """They come out once and in order, apart from those of the prompt, which stay."""
    reply = ReplyStream(1)
    for event in (STARTED, scored("a", "p", "q"), scored("b")):
        reply.deliver(event)
    assert [score("a"), score("b")] == reply.take_logprobs()
    assert [] == reply.take_logprobs()
    for event in (scored("c"), END):
        reply.deliver(event)
    assert [score("c")] == reply.take_logprobs()
    assert [score("p"), score("q")] == reply.prompt_logprobs
    assert "abc" == reply.take_text()


def test_logprobs_survive_the_merging_of_text() -> None:
    """However much text is joined, each token keeps its entry."""
    reply = ReplyStream(1)
    reply.deliver(STARTED)
    letters = [chr(ord("a") + i % 26) for i in range(3 * MERGE_AFTER)]
    for letter in letters:
        reply.deliver(scored(letter))
    assert [score(letter) for letter in letters] == reply.take_logprobs()
    assert "".join(letters) == reply.take_text()
