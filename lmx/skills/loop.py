"""A chat request whose model calls skills: turn, calls, turn, until an answer or a limit.

Theory of operation. `run` is the request's own task: it opens one reply after the other under one
hold, and runs what a turn has called in between. What is said meanwhile is taken from the feed by
whoever streams it, which is told of it synchronously, as with a reply of one turn; a slow client
delays nothing but itself. An error before the first turn has begun is told by `refusal`, a later
one by `error`. It knows no dialect and no transport.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import trio

from lmx.daemon.dispatch import Dispatch
from lmx.daemon.holds import Hold
from lmx.daemon.origin import Origin
from lmx.errors import LmxError
from lmx.protocol.messages import ChatPrompt, Generate, Started
from lmx.schema.chat_documents import ChatFinishReason, LoopEnd
from lmx.schema.chat_reply import make_call_id
from lmx.schema.prefix_header import encode_cache_header
from lmx.schema.problems import Headers
from lmx.schema.skill_documents import SkillCall, SkillRun, call_event, run_event
from lmx.schema.skill_fields import SkillLimit
from lmx.skills.calls import CallRunner
from lmx.skills.feed import LoopFeed
from lmx.skills.outcome import Outcome
from lmx.skills.plan import SkillPlan
from lmx.skills.service import Skills
from lmx.skills.transcript import Transcript, to_document
from lmx.skills.turn import Parser, Turn
from lmx.text.parts import ToolCallPart


class LoopTask(NamedTuple):
    """What is to be done.

    Attributes:
        model_name: As the client spelled it.
        first: What the first turn is asked.
        later: What the others are asked, before what the answer has added.
        make_parser: For each turn, by what the worker says at its start.
        plan: The skills.
        answer_id: Makes the ids of calls unique.
        origin: Where the request comes from.
    """

    model_name: str
    first: Generate
    later: Generate
    make_parser: Callable[[Started], Parser]
    plan: SkillPlan
    answer_id: str
    origin: Origin


class LoopHead(NamedTuple):
    """What is known when an answer begins.

    Attributes:
        model_id: The model that answers.
        headers: What is said of the first turn, where the transport has headers.
    """

    model_id: str
    headers: Headers


class _Ran(NamedTuple):
    """Calls that have ended, and calls that wait for a decision."""

    ended: list[tuple[SkillCall, Outcome]]
    waiting: list[SkillCall]


class SkillLoop:
    """One answer of several turns, to be run once.

    Args:
        dispatch: Opens replies.
        skills: Run calls.
        task: What is to be done.

    Attributes:
        feed: What it says.
        begun: Set when it is sure that there is an answer, or that there is none.
        head: How it begins, once it has.
        refusal: Why there is none.
        error: Why it broke off, if it did.
        runs: Calls of skills that have ended or wait for a decision.
    """

    def __init__(self, dispatch: Dispatch, skills: Skills, task: LoopTask) -> None:
        self.feed = LoopFeed()
        self.begun = trio.Event()
        self.head: LoopHead | None = None
        self.refusal: LmxError | None = None
        self.error: LmxError | None = None
        self.runs: list[SkillRun] = []
        self._dispatch = dispatch
        self._runner = CallRunner(skills, task.plan, task.origin.request_id)
        self._task = task
        self._transcript = Transcript()
        self._deadline_s = math.inf  # until it has begun
        self._call_count = 0

    async def run(self) -> None:
        """Answer. Every end is told by the feed, by `refusal` or by `error`.

        Cancellation:
            Ends the turn or the skills that run, with every process of theirs.
        """
        try:
            with self._dispatch.hold(self._task.origin, self._task.model_name) as hold:
                end = await self._take_turns(hold)
            self.feed.add(end)
        except LmxError as error:
            if self.head is None:
                self.refusal = error
            else:
                self.error = error
        self.begun.set()
        self.feed.tell()

    async def _take_turns(self, hold: Hold) -> LoopEnd:
        plan, ask = self._task.plan, self._limited(self._task.first)
        if plan.resumed:
            self._begin(LoopHead(await hold.find_model(), ()))
            if waiting := await self._resume(hold):
                return self._end("requires_approval", calls=waiting)
            ask = self._next()
        while True:
            if trio.current_time() >= self._deadline_s:
                return self._end("length", limit="time")
            end = await self._settle(hold, await self._take_turn(hold, ask))
            if end is not None:
                return end
            if len(self.feed.usages) >= plan.limits.max_steps:
                return self._end("length", limit="steps")
            if self._left_tokens <= 0:
                return self._end("length", limit="tokens")
            ask = self._next()

    async def _take_turn(self, hold: Hold, ask: Generate) -> Turn:
        """One turn to its end, or until the time is over."""
        hold.check()
        task, origin = self._task, self._task.origin
        if self.feed.usages:  # what came before is no wait of this turn's
            origin = msgspec.structs.replace(origin, received_s=None)
        name = task.model_name if self.head is None else self.head.model_id
        async with self._dispatch.open(ask, model_name=name, origin=origin) as reply:
            hold.model_id = reply.model_id
            self._begin(LoopHead(reply.model_id, encode_cache_header(reply.prompts)))
            turn = self.feed.open_turn(reply, task.make_parser(reply.started))
            try:
                with trio.move_on_at(self._deadline_s):
                    await turn.wait_end()
            finally:
                self.feed.close_turn()
        return turn

    async def _settle(self, hold: Hold, turn: Turn) -> LoopEnd | None:
        """Run what a turn has called; gives the end, if the answer ends with it."""
        calls = [self._number(part) for part in turn.calls] if turn.reason else []
        theirs = [call for call in calls if call.name in self._task.plan.client_tools]
        mine = [call for call in calls if call not in theirs]
        ran = await self._run_skills(hold, mine)
        said = (turn.text, turn.reasoning)
        if ran.ended:
            self._transcript.say(*said, [to_document(call) for call, _ in ran.ended])
            self._transcript.answer_all(ran.ended)
            said = ("", "")
        left = [*ran.waiting, *theirs]
        self._transcript.say(*said, [to_document(call) for call in left])
        if turn.reason is None:
            return self._end("length", limit="time")
        if ran.waiting:
            return self._end("requires_approval", calls=left)
        if turn.reason == "length":
            limit: SkillLimit | None = "tokens" if self._left_tokens <= 0 else None
            return self._end("length", limit=limit, calls=left)
        if theirs:
            return self._end("tool_calls", calls=left)
        return None if mine else self._end(turn.reason)

    async def _resume(self, hold: Hold) -> list[SkillCall]:
        """Run the calls that the conversation ends with; gives those that are not decided on."""
        calls = [
            self._runner.name(call.id, call.function.name, call.function.arguments)
            for call in self._task.plan.resumed
        ]
        ran = await self._run_skills(hold, calls)
        self._transcript.answer_all(ran.ended)
        return ran.waiting

    async def _run_skills(self, hold: Hold, calls: Sequence[SkillCall]) -> _Ran:
        if not calls:
            return _Ran([], [])
        for call in calls:
            self.feed.add(call_event(call))

        def tell(run: SkillRun) -> None:
            self.runs.append(run)
            self.feed.add(run_event(run))

        run = partial(self._runner.run, calls, self._deadline_s, tell)
        outcomes = list(zip(calls, await hold.during(run), strict=True))
        return _Ran(
            [(call, outcome) for call, outcome in outcomes if not outcome.requires_approval],
            [call for call, outcome in outcomes if outcome.requires_approval],
        )

    def _begin(self, head: LoopHead) -> None:
        if self.head is None:
            self.head = head
            self._deadline_s = trio.current_time() + self._task.plan.limits.max_s
            self.begun.set()

    def _number(self, part: ToolCallPart) -> SkillCall:
        """A call under an id of its own, whichever turn has made it."""
        call_id = make_call_id(f"{self._task.answer_id}:0", self._call_count)
        self._call_count += 1
        return self._runner.name(call_id, part.name, part.arguments)

    def _end(
        self,
        reason: ChatFinishReason,
        *,
        limit: SkillLimit | None = None,
        calls: Sequence[SkillCall] = (),
    ) -> LoopEnd:
        return LoopEnd(
            reason,
            limit,
            [to_document(call) for call in calls],
            self._transcript.messages if self.runs else [],
        )

    @property
    def _max_tokens(self) -> int:
        given, asked = self._task.plan.limits.max_tokens, self._task.first.samplings[0].max_tokens
        return asked if given is None else min(given, asked)

    @property
    def _left_tokens(self) -> int:
        return self._max_tokens - self.feed.usage.completion_tokens

    def _next(self) -> Generate:
        """What the next turn is asked: the conversation so far, and all that was added."""
        later = self._task.later
        messages = [*_conversation(later).messages, *self._transcript.turns]
        prompt = msgspec.structs.replace(_conversation(later), messages=messages)
        return self._limited(msgspec.structs.replace(later, prompt=prompt))

    def _limited(self, ask: Generate) -> Generate:
        """The same with the tokens that are left."""
        (sampling,) = ask.samplings
        left = self._left_tokens
        used = self._max_tokens - left
        limited = msgspec.structs.replace(
            sampling,
            max_tokens=left,
            min_tokens=min(max(0, sampling.min_tokens - used), left),
        )
        return msgspec.structs.replace(ask, samplings=[limited])


def _conversation(ask: Generate) -> ChatPrompt:
    """The prompt of a chat request, which is never of another kind."""
    if not isinstance(ask.prompt, ChatPrompt):
        raise TypeError("only a conversation can call skills")
    return ask.prompt
