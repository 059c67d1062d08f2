"""Running the calls of one turn: together, told of in order, each to an outcome."""

from collections.abc import Callable, Sequence

import trio

from lmx.schema.skill_documents import SkillCall, SkillRun, shown_output
from lmx.skills.outcome import Outcome
from lmx.skills.plan import SkillPlan
from lmx.skills.service import Skills

LATE = "the time of the whole request was over"
REFUSED = "the user has refused this call"


class CallRunner:
    """Runs what the model of one request calls.

    Args:
        skills: Run them.
        plan: Which, and what the client has decided.
        request_id: Whose calls they are.
    """

    def __init__(self, skills: Skills, plan: SkillPlan, request_id: str) -> None:
        self._skills = skills
        self._plan = plan
        self._request_id = request_id

    def name(self, call_id: str, function: str, arguments: str) -> SkillCall:
        """A call as it is told of."""
        manifest = self._plan.skills.get(function)
        skill = function if manifest is None else manifest.reference
        return SkillCall(call_id=call_id, skill=skill, name=function, arguments=arguments)

    async def run(
        self, calls: Sequence[SkillCall], deadline_s: float, tell: Callable[[SkillRun], None]
    ) -> list[Outcome]:
        """Run calls, and say how they went.

        Args:
            calls: As `name` gave them.
            deadline_s: When what still runs is ended, on Trio's clock.
            tell: Told of each once it and all before it have ended.

        Cancellation:
            Ends all of them at once.
        """
        ended: dict[int, Outcome] = {}
        told: list[Outcome] = []

        async def run_one(index: int, call: SkillCall) -> None:
            ended[index] = await self._run_one(call, deadline_s)
            while (outcome := ended.get(len(told))) is not None:
                tell(_describe(calls[len(told)], outcome))
                told.append(outcome)

        async with trio.open_nursery() as nursery:
            for index, call in enumerate(calls):
                nursery.start_soon(run_one, index, call)
        return told

    async def _run_one(self, call: SkillCall, deadline_s: float) -> Outcome:
        await trio.lowlevel.checkpoint()
        manifest = self._plan.skills.get(call.name)
        decision = self._plan.approvals.get(call.call_id)
        if manifest is None:
            return Outcome(ok=False, error=f"there is no function {call.name!r}")
        if decision is False:
            return Outcome(ok=False, denied=True, error=REFUSED)
        started_s = trio.current_time()
        with trio.move_on_at(deadline_s):
            return await self._skills.call(
                manifest,
                call.arguments,
                approved=decision is True,
                request_id=self._request_id,
            )
        duration_ms = round(1000 * (trio.current_time() - started_s), 3)
        return Outcome(ok=False, timed_out=True, error=LATE, duration_ms=duration_ms)


def _describe(call: SkillCall, outcome: Outcome) -> SkillRun:
    output, is_cut = shown_output(outcome.output)
    return SkillRun(
        call_id=call.call_id,
        skill=call.skill,
        name=call.name,
        arguments=call.arguments,
        ok=outcome.ok,
        output=output,
        output_cut=is_cut,
        error=outcome.error,
        duration_ms=outcome.duration_ms,
        timed_out=outcome.timed_out,
        denied=outcome.denied,
        requires_approval=outcome.requires_approval,
    )
