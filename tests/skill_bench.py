"""Chat requests with skills over a scripted worker: skills of a few lines, turns by script.

Everything between is real: parsing, planning, the loop, the dispatcher, the link.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from lmx.config import ModelSettings, SkillSettings
from lmx.daemon.origin import Caller, Origin
from lmx.errors import SkillNotFound
from lmx.protocol.messages import (
    Cancel,
    ChatPrompt,
    Delta,
    Finished,
    Generate,
    Started,
    StopThinking,
)
from lmx.protocol.values import FinishReason, Timings, TokenLogprob, Usage
from lmx.schema.chat_reply import THINK_MARKS
from lmx.schema.chat_request import parse_chat_request
from lmx.schema.reply import ReplyHead
from lmx.schema.skill_reply import encode_whole_loop
from lmx.skills.loop import SkillLoop
from lmx.skills.manifest import Manifest
from lmx.skills.outcome import Outcome
from lmx.skills.service import BrokenManifest
from lmx.web.chat_stream import plan_chat
from lmx.web.skill_stream import collect_loop, make_loop
from tests.fakes import Bench, open_bench

ORIGIN = Origin("req_1", "laptop", "/v1/chat/completions", None, Caller("me", "salt"))
USER = {"role": "user", "content": "What is 2 and 3?"}
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


class FakeSkills:
    """Skills that run in the test.

    Attributes:
        called: Name, arguments and decision of each call, in order of their start.
        running: How many run.
        request_ids: Whose calls they were.
    """

    broken: Sequence[BrokenManifest] = ()
    changed_s = 0.0

    def __init__(self, *more: Manifest) -> None:
        own = [
            Manifest(name="add", namespace="builtin", kind="internal", input_schema=NUMBERS),
            Manifest(name="wait", kind="internal", description="Takes its time."),
            Manifest(name="danger", kind="internal", requires_approval=True),
            Manifest(name="fail", kind="internal"),
            Manifest(name="say", kind="internal"),
        ]
        self._manifests = [*own, *more]
        self.called: list[tuple[str, Any, bool]] = []
        self.running = 0
        self.request_ids: set[str] = set()

    def list(self, *, latest_only: bool = False) -> Sequence[Manifest]:
        return self._manifests

    def find(self, name: str) -> Manifest:
        found = [
            one for one in self._manifests if name in {one.name, one.qualified_name, one.reference}
        ]
        if len(found) != 1:
            raise SkillNotFound(f"no skill is called {name!r}")
        return found[0]

    async def call(
        self,
        manifest: Manifest,
        arguments: Any,
        *,
        approved: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outcome:
        await trio.lowlevel.checkpoint()
        given = json.loads(arguments)
        self.called.append((manifest.name, given, approved))
        self.request_ids.add(request_id)
        if manifest.requires_approval and not approved:
            return Outcome(ok=False, requires_approval=True, error="it needs a decision")
        self.running += 1
        try:
            return await self._run(manifest.name, given)
        finally:
            self.running -= 1

    async def _run(self, name: str, given: Mapping[str, Any]) -> Outcome:
        match name:
            case "add" if set(given) == {"a", "b"}:
                return Outcome(ok=True, output=given["a"] + given["b"], duration_ms=1.0)
            case "add":
                return Outcome(ok=False, error="'a' and 'b' are needed")
            case "wait":
                await trio.sleep(given["s"])
                return Outcome(ok=True, output=given, duration_ms=1000 * given["s"])
            case "fail":
                return Outcome(ok=False, denied=True, error="nothing contains it")
            case "say":
                return Outcome(ok=True, output=given["text"])
        await trio.sleep(given.get("s", 0))
        return Outcome(ok=True, output={"did": name})


def call(name: str, **arguments: Any) -> str:
    """A call as the model writes it."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


class Said(msgspec.Struct, frozen=True):
    """One turn by script.

    Attributes:
        text: As the model writes it.
        reason: Why it ends; ``error`` for a failure, `None` for a turn that never ends.
        usage: Its counts.
        reasoning: Its reasoning markers.
        logprobs: With its text.
    """

    text: str = ""
    reason: FinishReason | None = "stop"
    usage: Usage = Usage(10, 5, 4)
    reasoning: str = "none"
    logprobs: Sequence[TokenLogprob] = ()


class SkillBench:
    """Requests over a worker whose turns are scripted.

    Attributes:
        bench: The dispatcher and the worker.
        skills: What can be called.
        asked: What the worker was asked, turn by turn.
        cancelled: Sequences that it was told to drop.
        stopped: Sequences whose thinking it was told to end.
    """

    def __init__(self, bench: Bench, turns: Sequence[Said | str], skills: FakeSkills) -> None:
        self.bench = bench
        self.skills = skills
        self.asked: list[Generate] = []
        self.cancelled: list[int] = []
        self.stopped: list[int] = []
        self._turns = [Said(turn) if isinstance(turn, str) else turn for turn in turns]

    async def answer_worker(self) -> None:
        """Play the worker to the end of the pipe."""
        while commands := await self.bench.worker.listen():
            for command in commands:
                if isinstance(command, Generate):
                    self.asked.append(command)
                    self._say(command.sequence, self._turns.pop(0))
                elif isinstance(command, Cancel):
                    self.cancelled.append(command.sequence)
                elif isinstance(command, StopThinking):
                    self.stopped.append(command.sequence)

    def _say(self, sequence: int, turn: Said) -> None:
        started = Started(sequence, turn.usage.prompt_tokens, "hermes", turn.reasoning)
        scores = list(turn.logprobs)
        pieces = [turn.text[at : at + 7] for at in range(0, len(turn.text), 7)]
        said = [Delta(sequence, piece, 1, [] if at else scores) for at, piece in enumerate(pieces)]
        end = []
        if turn.reason == "error":
            end = [Finished(sequence, "error", turn.usage, Timings(), "internal-error", "broke")]
        elif turn.reason is not None:
            end = [Finished(sequence, turn.reason, turn.usage, Timings())]
        self.bench.worker.send(started, *said, *end)

    def loop(self, settings: SkillSettings | None = None, **fields: Any) -> SkillLoop:
        """The loop of a request with these fields."""
        body = json.dumps({"model": "m", "messages": [USER], "skills": ["add"], **fields})
        job = plan_chat(parse_chat_request(body.encode()), ModelSettings(), 0)
        chosen = settings or SkillSettings()
        return make_loop(job, self.skills, chosen, dispatch=self.bench.dispatch, origin=ORIGIN)

    async def ask(self, settings: SkillSettings | None = None, **fields: Any) -> dict[str, Any]:
        """The whole answer to such a request."""
        marks = THINK_MARKS if fields.get("reasoning_format") == "inline" else None
        loop = self.loop(settings, **fields)
        told = await collect_loop(loop, is_scored=bool(fields.get("logprobs")))
        head = ReplyHead("chatcmpl-1", 1, "m", "f")
        document = encode_whole_loop(head, told, loop.feed.usage, marks=marks)
        answer: dict[str, Any] = json.loads(document)
        return answer

    def turns_of(self, number: int) -> list[dict[str, Any]]:
        """The conversation as the worker got it for a turn."""
        prompt = self.asked[number].prompt
        assert isinstance(prompt, ChatPrompt)
        return prompt.messages


@asynccontextmanager
async def open_skills(
    *turns: Said | str, skills: FakeSkills | None = None
) -> AsyncIterator[SkillBench]:
    """A bench whose worker says these turns, one per request it is asked."""
    async with open_bench() as (bench, nursery):
        made = SkillBench(bench, turns, skills or FakeSkills())
        nursery.start_soon(made.answer_worker)
        yield made
        nursery.cancel_scope.cancel()
