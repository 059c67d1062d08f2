"""One request, several streams; and questions about prompts that generate nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.errors import ContextTooLong, InvalidRequest, LmxError, WorkerBroken
from lmx.protocol.messages import (
    Cancel,
    ChatPrompt,
    Generate,
    Inspect,
    Inspected,
    Prompt,
    Rejected,
    Started,
    TextPrompt,
)
from tests.fakes import ScriptedWorker, delta, finished, generate

PROMPT = TextPrompt("Hi")
ANSWER = Inspected(1, "Hi", [72, 105], ["H", "i"])


@asynccontextmanager
async def open_link() -> AsyncIterator[tuple[ScriptedWorker, trio.Nursery]]:
    """A worker whose link is being pumped, and a nursery for questions."""
    worker = ScriptedWorker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        async with trio.open_nursery() as questions:
            yield worker, questions
        nursery.cancel_scope.cancel()


class Question:
    """An inspection and what became of it."""

    def __init__(self, prompt: Prompt = PROMPT) -> None:
        self.scope = trio.CancelScope()
        self.outcome: Inspected | LmxError | None = None
        self._prompt = prompt

    async def ask(self, worker: ScriptedWorker) -> None:
        with self.scope:
            try:
                self.outcome = await worker.link.inspect(self._prompt)
            except LmxError as error:
                self.outcome = error


async def test_choices_are_numbered_from_the_request() -> None:
    """One command opens as many streams as choices, and the next request's numbers follow."""
    async with open_link() as (worker, _):
        numbers = [r.sequence for n in (3, 1, 2) for r in worker.link.open_replies(generate(n))]
        sent = [(c.sequence, len(c.samplings)) for c in worker.commands() if type(c) is Generate]
        assert [1, 2, 3, 4, 5, 6] == numbers
        assert [(1, 3), (4, 1), (5, 2)] == sent


async def test_each_choice_has_its_own_events() -> None:
    """Choices start, speak and end independently of each other."""
    async with open_link() as (worker, _):
        one, two = worker.link.open_replies(generate(2))
        worker.send(Started(1, 4), Started(2, 4), delta(2, "b"), delta(1, "a"), finished(2))
        await wait_all_tasks_blocked()
        assert [("a", False), ("b", True)] == [(r.take_text(), r.is_over) for r in (one, two)]


async def test_closing_one_choice_leaves_the_others() -> None:
    """Only its own number is cancelled, and the others go on to hear their events."""
    async with open_link() as (worker, _):
        one, two = worker.link.open_replies(generate(2))
        worker.send(Started(1, 4), Started(2, 4))
        await wait_all_tasks_blocked()
        worker.commands()
        worker.link.close_reply(one)
        assert [Cancel(1)] == worker.commands()
        worker.send(delta(1, "late"), delta(2, "b"), finished(1, "cancelled"), finished(2))
        await wait_all_tasks_blocked()
        assert [("", False), ("b", True)] == [(r.take_text(), r.is_over) for r in (one, two)]


async def test_a_worker_that_dies_fails_every_choice() -> None:
    """Choices that have ended keep their end, all others hear why."""
    async with open_link() as (worker, _):
        one, two, three = worker.link.open_replies(generate(3))
        worker.send(Started(1, 4), Started(2, 4), finished(1))
        await wait_all_tasks_blocked()
        worker.die()
        await wait_all_tasks_blocked()
        assert [None, WorkerBroken, WorkerBroken] == [
            None if reply.error is None else type(reply.error) for reply in (one, two, three)
        ]


async def test_an_inspection_is_answered() -> None:
    """The question travels with a number of its own, and its answer comes back to the asker."""
    async with open_link() as (worker, questions):
        question = Question()
        questions.start_soon(question.ask, worker)
        await wait_all_tasks_blocked()
        assert [Inspect(1, PROMPT)] == worker.commands()
        worker.send(ANSWER)
        await wait_all_tasks_blocked()
        assert ANSWER == question.outcome


async def test_inspections_and_requests_do_not_mix() -> None:
    """They share one numbering; answers out of order find their askers."""
    async with open_link() as (worker, questions):
        first, last = Question(), Question()
        questions.start_soon(first.ask, worker)
        await wait_all_tasks_blocked()
        (reply,) = worker.link.open_replies(generate())
        questions.start_soon(last.ask, worker)
        await wait_all_tasks_blocked()
        third = Inspected(3, "x", [120], ["x"])
        worker.send(Started(2, 4), third, delta(2, "a"), ANSWER)
        await wait_all_tasks_blocked()
        assert (ANSWER, third, "a") == (first.outcome, last.outcome, reply.take_text())


async def test_an_inspection_is_refused() -> None:
    """The asker gets the error that the worker's code names, and requests are not disturbed."""
    async with open_link() as (worker, questions):
        (reply,) = worker.link.open_replies(generate())
        question = Question()
        questions.start_soon(question.ask, worker)
        await wait_all_tasks_blocked()
        worker.send(Rejected(2, "context_length_exceeded", "too long", "prompt"))
        await wait_all_tasks_blocked()
        error = question.outcome
        assert isinstance(error, ContextTooLong)
        assert ("too long", "prompt") == (error.message, error.param)
        assert not reply.is_over


async def test_inspections_end_with_the_link() -> None:
    """Whoever waits hears why the worker ended, and so does whoever asks later."""
    async with open_link() as (worker, questions):
        early, late = Question(), Question()
        questions.start_soon(early.ask, worker)
        await wait_all_tasks_blocked()
        worker.die()
        await wait_all_tasks_blocked()
        questions.start_soon(late.ask, worker)
        await wait_all_tasks_blocked()
        assert isinstance(early.outcome, WorkerBroken)
        assert isinstance(late.outcome, WorkerBroken)


async def test_an_inspection_may_be_given_up() -> None:
    """An answer or a refusal that comes too late is dropped, and the pump goes on."""
    async with open_link() as (worker, questions):
        given_up = [Question(), Question()]
        for question in given_up:
            questions.start_soon(question.ask, worker)
        await wait_all_tasks_blocked()
        for question in given_up:
            question.scope.cancel()
        await wait_all_tasks_blocked()
        worker.send(ANSWER, Rejected(2, "invalid-request", "no"))
        (reply,) = worker.link.open_replies(generate())
        worker.send(Started(3, 4))
        await wait_all_tasks_blocked()
        assert Started(3, 4) == reply.started
        assert [None, None] == [question.outcome for question in given_up]


async def test_an_inspection_that_no_frame_can_carry() -> None:
    """It is the asker's fault, and the worker hears nothing."""
    async with open_link() as (worker, _):
        with pytest.raises(InvalidRequest):
            await worker.link.inspect(ChatPrompt([{"role": "user", "n": 2**70}]))
        assert [] == worker.commands()
