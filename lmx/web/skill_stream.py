"""A chat answer whose model calls skills: streamed to whoever gives a sink, or whole.

The same interface as `lmx.web.chat_stream`'s, so that routes and sockets need not know which it is.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from lmx.config import SkillSettings
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.origin import Origin
from lmx.protocol.messages import Started
from lmx.protocol.values import Usage
from lmx.schema.chat_documents import LoopEnd
from lmx.schema.chat_request import offered_tools, with_tools
from lmx.schema.reply import ReplyHead, completion_id
from lmx.schema.skill_documents import SkillEvent
from lmx.schema.skill_reply import WholeLoop
from lmx.skills.feed import LoopItem
from lmx.skills.loop import LoopHead, LoopTask, SkillLoop
from lmx.skills.plan import plan_skills
from lmx.skills.service import Skills
from lmx.skills.turn import Spoken
from lmx.web.answers import StartStream, answer_parser, reply_head
from lmx.web.chat_stream import ChatJob
from lmx.web.pump import Listener, Pump
from lmx.web.sink import GONE
from lmx.web.streaming import Parser, StreamEncoder


class LoopEncoder(StreamEncoder, Protocol):
    """A dialect's way to spell a stream of several turns."""

    def skill_event(self, event: SkillEvent) -> bytes:
        """A call of a skill, or what came of it; a turn ends with it."""

    def end_loop(self, end: LoopEnd, usage: Usage) -> bytes:
        """The end of an answer that ended well."""


def make_loop(
    job: ChatJob, skills: Skills, settings: SkillSettings, *, dispatch: Dispatch, origin: Origin
) -> SkillLoop:
    """The loop of a request that names skills; nothing of it runs yet.

    Args:
        job: What to generate.
        skills: All there are.
        settings: How far it may go.
        dispatch: Opens its replies.
        origin: Where the request comes from.

    Raises:
        SkillNotFound: It names one that there is not.
        InvalidRequest: Its fields contradict each other.
    """
    planned = plan_skills(job.request, skills, settings)
    tools = offered_tools(planned.later)

    def make_parser(started: Started) -> Parser:
        return answer_parser(started, tools, may_call_many=job.may_call_many)

    task = LoopTask(
        model_name=job.request.model or "",
        first=with_tools(job.generate, planned.first),
        later=with_tools(job.generate, planned.later),
        make_parser=make_parser,
        plan=planned.plan,
        answer_id=completion_id(origin.request_id),
        origin=origin,
    )
    return SkillLoop(dispatch, skills, task)


class LoopSource:
    """What a loop says, spelled in a dialect; see `lmx.web.pump.Source`.

    Args:
        loop: Says it.
        encoder: The dialect.

    Attributes:
        is_ended: Whether the last frame was given.
    """

    def __init__(self, loop: SkillLoop, encoder: LoopEncoder) -> None:
        self._loop = loop
        self._encoder = encoder
        self.is_ended = False

    def listen(self, listener: Listener | None) -> None:
        """Have `listener` called after every change."""
        self._loop.feed.on_change = listener

    def take(self) -> bytes:
        """Everything there is to be sent now."""
        data = b"".join([self._encode(item) for item in self._loop.feed.take()])
        if self._loop.error is None or self.is_ended:
            return data
        self.is_ended = True
        return data + self._encoder.error(self._loop.error)

    def _encode(self, item: LoopItem) -> bytes:
        match item:
            case Spoken(parts, logprobs):
                return self._encoder.parts(0, parts, logprobs)
            case SkillEvent():
                return self._encoder.skill_event(item)
            case LoopEnd():
                self.is_ended = True
                return self._encoder.end_loop(item, self._loop.feed.usage)


class SkillStream:
    """A chat answer with skills to be streamed, once.

    Args:
        loop: Gives it.
        origin: Where the request comes from.
        make_encoder: Spells the answer, given its head.
    """

    def __init__(
        self, loop: SkillLoop, origin: Origin, *, make_encoder: Callable[[ReplyHead], LoopEncoder]
    ) -> None:
        self._loop = loop
        self._origin = origin
        self._make_encoder = make_encoder

    async def perform(self, start: StartStream, *, heartbeat_s: float) -> None:
        """Give the answer; see `ChatStream.perform`."""
        lost: list[Exception] = []

        async def send(head: LoopHead) -> None:
            try:
                await self._send(head, start, heartbeat_s)
            except GONE as error:
                lost.append(error)  # bare, not in a group of the nursery's

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._loop.run)
            await self._loop.begun.wait()
            if self._loop.head is not None:
                await send(self._loop.head)
            nursery.cancel_scope.cancel()
        if error := self._loop.refusal or next(iter(lost), None):
            raise error

    async def _send(self, head: LoopHead, start: StartStream, heartbeat_s: float) -> None:
        answer_id = completion_id(self._origin.request_id)
        encoder = self._make_encoder(reply_head(answer_id, head.model_id))
        sink = await start(encoder.opening(1), head.headers)
        source = LoopSource(self._loop, encoder)
        await Pump(source, sink, heartbeat=encoder.heartbeat, heartbeat_s=heartbeat_s).run()

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return self._loop.feed.usage

    def stop_thinking(self) -> None:
        """End the reasoning of the turn that runs, and go on with its answer."""
        if self._loop.feed.turn is not None:
            self._loop.feed.turn.stop_thinking()


async def collect_loop(loop: SkillLoop, *, is_scored: bool) -> WholeLoop:
    """Run a loop to its end; what a stream would have sent.

    Args:
        loop: Not run yet.
        is_scored: Log-probabilities are wanted.

    Raises:
        LmxError: It was refused or broke off.
    """
    await loop.run()
    if error := loop.refusal or loop.error:
        raise error
    spoken: list[list[Spoken]] = [[]]
    end = LoopEnd("error")
    for item in loop.feed.take():
        match item:
            case Spoken():
                spoken[-1].append(item)
            case SkillEvent():
                spoken.append([])
            case LoopEnd():
                end = item
    turns = [[part for one in turn for part in one.parts] for turn in spoken]
    logprobs = [score for turn in spoken for one in turn for score in one.logprobs]
    return WholeLoop(turns, logprobs if is_scored else None, loop.runs, end)
