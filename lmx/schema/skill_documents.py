"""What an answer tells of calls of skills, as they happen and in the end.

The same in every spelling. Outputs are cut to a bound here: models get them whole.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

# More of an output's JSON text is not shown; the conversation's messages hold all of it.
OUTPUT_LIMIT = 4096

EventType = Literal["skill.call", "skill.result", "skill.approval"]


class SkillCall(Struct, frozen=True, kw_only=True):
    """A call of a skill.

    Attributes:
        call_id: Unique, as that of a tool's call.
        skill: The skill's reference; what the model wrote, if there is no such skill.
        name: The function that the model has called.
        arguments: JSON text, as the model wrote it.
    """

    call_id: str
    skill: str
    name: str
    arguments: str


class SkillRun(SkillCall, frozen=True, kw_only=True):
    """A call and what came of it.

    Attributes:
        ok: Whether there is an output.
        output: Any JSON value; the beginning of its text if `output_cut`.
        output_cut: The output is longer than is shown.
        error: One sentence on why there is none.
        duration_ms: From the call to its end.
        timed_out: It was ended for taking too long.
        denied: It was not run.
        requires_approval: It was not run: it waits for the client's decision.
    """

    ok: bool
    output: Any = None
    output_cut: bool = False
    error: str | None = None
    duration_ms: float = 0.0
    timed_out: bool = False
    denied: bool = False
    requires_approval: bool = False


class SkillEvent(Struct, frozen=True, kw_only=True):
    """One event of a stream: a call, its outcome, or that it waits for a decision.

    Attributes:
        type: Which.
        call_id: Which call.
        skill: The skill's reference.
        name: The function that the model has called.
        arguments: Of a call, and of one that waits: JSON text.
    """

    type: EventType
    call_id: str
    skill: str
    name: str
    arguments: str | UnsetType = UNSET
    ok: bool | UnsetType = UNSET
    output: Any = UNSET
    output_cut: bool | UnsetType = UNSET
    error: str | UnsetType | None = UNSET
    duration_ms: float | UnsetType = UNSET
    timed_out: bool | UnsetType = UNSET
    denied: bool | UnsetType = UNSET


def call_event(call: SkillCall) -> SkillEvent:
    """A call is about to run."""
    return SkillEvent(
        type="skill.call",
        call_id=call.call_id,
        skill=call.skill,
        name=call.name,
        arguments=call.arguments,
    )


def run_event(run: SkillRun) -> SkillEvent:
    """A call has ended, or waits for a decision."""
    if run.requires_approval:
        return SkillEvent(
            type="skill.approval",
            call_id=run.call_id,
            skill=run.skill,
            name=run.name,
            arguments=run.arguments,
        )
    return SkillEvent(
        type="skill.result",
        call_id=run.call_id,
        skill=run.skill,
        name=run.name,
        ok=run.ok,
        output=run.output,
        output_cut=run.output_cut,
        error=run.error,
        duration_ms=run.duration_ms,
        timed_out=run.timed_out,
        denied=run.denied,
    )


def shown_output(output: Any) -> tuple[Any, bool]:
    """An output as it is told, and whether it was cut."""
    text = output_text(output)
    return (text[:OUTPUT_LIMIT], True) if len(text) > OUTPUT_LIMIT else (output, False)


def output_text(output: Any) -> str:
    """An output as a model reads it: a text as it is, anything else as JSON."""
    return output if isinstance(output, str) else msgspec.json.encode(output).decode()
