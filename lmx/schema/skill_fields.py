"""What a chat request says of skills: which, how far they may go, and which calls were allowed.

Whether there is such a skill is not known here. What one field cannot say alone is checked here.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from lmx.errors import InvalidRequest
from lmx.schema.fields import GenerationFields, NonEmpty, TokenCount
from lmx.schema.messages import Message, ToolCall

SkillLimit = Literal["steps", "time", "tokens"]


class SkillReference(Struct):
    """Which skill: its name, with its namespace and version if others share the name."""

    name: NonEmpty


class SkillTool(Struct, tag_field="type", tag="skill"):
    """A skill among the tools, under either of two spellings."""

    skill: SkillReference | None = None
    name: NonEmpty | None = None


class SkillLimits(Struct, forbid_unknown_fields=True):
    """How far the model may go by itself. The settings hold what is most."""

    max_steps: Annotated[int, Meta(ge=1, description="Turns of the model.")] | None = None
    max_seconds: Annotated[float, Meta(gt=0, description="From the first turn's start.")] | None = (
        None
    )
    max_tokens: TokenCount | None = None


SkillNames = Annotated[
    list[NonEmpty],
    Meta(description="LMX: skills the model may call and the server runs, by name."),
]
Limits = Annotated[SkillLimits | None, Meta(description="LMX: how far calls of skills may go.")]
Approvals = Annotated[
    dict[str, bool],
    Meta(description="LMX: decisions on the last message's unanswered calls, by their ids."),
]


class SkillFields(GenerationFields, kw_only=True):
    """Extensions of LMX. `None` means absent, as explicit nulls occur."""

    skills: SkillNames | None = None
    skill_limits: Limits = None
    skill_approvals: Approvals | None = None


class AskedSkill(Struct, frozen=True):
    """A skill's name as it was given, and the field that gives it."""

    name: str
    param: str


def asked_skills(names: Sequence[str] | None, tools: Sequence[Struct] | None) -> list[AskedSkill]:
    """Every skill that a request names, in order.

    Raises:
        InvalidRequest: A tool names none, or two.
    """
    found = [AskedSkill(name, f"skills[{index}]") for index, name in enumerate(names or ())]
    for index, tool in enumerate(tools or ()):
        if isinstance(tool, SkillTool):
            found.append(_of_tool(tool, f"tools[{index}]"))
    return found


def check_skill_fields(
    request: SkillFields, messages: Sequence[Message], *, names_skills: bool
) -> None:
    """What the fields cannot say alone.

    Raises:
        InvalidRequest: They contradict each other, or decide on calls that there are not.
    """
    if not names_skills:
        for name, value in (
            ("skill_limits", request.skill_limits),
            ("skill_approvals", request.skill_approvals),
        ):
            if value:
                raise InvalidRequest(f"{name!r} needs 'skills'", param=name)
        return
    if (request.n or 1) > 1:
        raise InvalidRequest(
            "'n' must be 1 with skills: each choice would run its calls by itself", param="n"
        )
    open_ids = {call.id for call in unanswered_calls(messages)}
    for call_id in request.skill_approvals or {}:
        if call_id not in open_ids:
            raise InvalidRequest(
                f"the last message of the assistant has no unanswered call {call_id!r}",
                param="skill_approvals",
            )


def unanswered_calls(messages: Sequence[Message]) -> list[ToolCall]:
    """The calls that the conversation ends with, and that no message of a tool answers."""
    answered: set[str | None] = set()
    for message in reversed(messages):
        if message.role == "tool":
            answered.add(message.tool_call_id)
        else:
            return [call for call in message.tool_calls or () if call.id not in answered]
    return []


def _of_tool(tool: SkillTool, here: str) -> AskedSkill:
    if (tool.skill is None) is (tool.name is None):
        raise InvalidRequest(
            "a skill needs one name: 'skill': {'name': ...}", param=f"{here}.skill"
        )
    if tool.skill is not None:
        return AskedSkill(tool.skill.name, f"{here}.skill.name")
    return AskedSkill(tool.name or "", f"{here}.name")
