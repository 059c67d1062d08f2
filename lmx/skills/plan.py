"""What a chat request's skills come to: the functions a model sees, and how far it may go.

Decided before anything starts, without effects. Names of functions are shorter than those of
skills; two skills of one name, or a client's tool of it, get the namespace in front.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from lmx.config import SkillSettings
from lmx.errors import InvalidRequest, SkillNotFound
from lmx.schema.chat_request import ChatRequest
from lmx.schema.messages import ToolCall
from lmx.schema.skill_fields import (
    AskedSkill,
    SkillLimits,
    check_skill_fields,
    unanswered_calls,
)
from lmx.schema.tools import FunctionDefinition, Tool
from lmx.skills.manifest import Manifest
from lmx.skills.service import Skills

# What functions are called, as `lmx.schema.constraints.Name` has it.
NAME_CHARS = 64
_OTHER_CHARACTERS = re.compile(r"[^a-zA-Z0-9_-]")


class LoopLimits(NamedTuple):
    """How far a request may go by itself.

    Attributes:
        max_steps: Turns of the model.
        max_s: Seconds from the first turn's start.
        max_tokens: Of all turns; `None` for what the request allows anyway.
    """

    max_steps: int
    max_s: float
    max_tokens: int | None = None


class SkillPlan(NamedTuple):
    """What becomes of a request's skills.

    Attributes:
        skills: By the name of the function that the model sees.
        client_tools: Names of the functions that are the client's to run.
        limits: How far it may go.
        resumed: Calls of these skills that the conversation ends with, to be run first.
        approvals: Decisions on calls, by their ids.
    """

    skills: Mapping[str, Manifest]
    client_tools: frozenset[str]
    limits: LoopLimits
    resumed: Sequence[ToolCall] = ()
    approvals: Mapping[str, bool] = {}


class PlannedRequest(NamedTuple):
    """A request whose skills are tools, for its first turn and for the others."""

    plan: SkillPlan
    first: ChatRequest
    later: ChatRequest


def plan_skills(request: ChatRequest, skills: Skills, settings: SkillSettings) -> PlannedRequest:
    """Find a request's skills.

    Args:
        request: It names skills.
        skills: All there are.
        settings: What is most.

    Raises:
        SkillNotFound: There is none of that name, or the name is that of several.
        InvalidRequest: Its fields contradict each other, a decision is about something else, or
            two functions cannot be told apart.
    """
    # Again, because a preset may have named the skills.
    check_skill_fields(request, request.messages, names_skills=True)
    found = list({one.reference: one for one in _find(request.asked_skills, skills)}.values())
    own = request.own_tools
    client_tools = frozenset(tool.function.name for tool in own)
    functions = name_functions(found, client_tools)
    plan = SkillPlan(functions, client_tools, _limits(request.skill_limits, settings))
    tools = [*own, *(_to_tool(name, manifest) for name, manifest in functions.items())]
    choice = request.tool_choice
    # A call that is demanded is the first turn's; it has been made if calls are gone on with.
    later = msgspec.structs.replace(
        request, tools=tools, tool_choice="none" if choice == "none" else "auto", skills=None
    )
    first = msgspec.structs.replace(later, tool_choice=choice)
    if request.skill_approvals:
        resumed = _resumed(request, plan)
        plan = plan._replace(resumed=resumed, approvals=request.skill_approvals)
        first = later
    return PlannedRequest(plan, first, later)


def name_functions(
    skills: Sequence[Manifest], taken: frozenset[str] = frozenset()
) -> dict[str, Manifest]:
    """Names by which a model can tell skills apart, and apart from other functions.

    Raises:
        InvalidRequest: That is not possible.
    """
    short = [fit_name(skill.name) for skill in skills]
    named: dict[str, Manifest] = {}
    for name, skill in zip(short, skills, strict=True):
        is_shared = short.count(name) > 1 or name in taken
        chosen = fit_name(f"{skill.namespace}__{skill.name}") if is_shared else name
        if chosen in named or chosen in taken:
            raise InvalidRequest(
                f"the model could not tell {skill.reference!r} from another function "
                f"that is called {chosen!r}",
                param="skills",
            )
        named[chosen] = skill
    return named


def fit_name(name: str) -> str:
    """A skill's name as that of a function."""
    return _OTHER_CHARACTERS.sub("_", name)[:NAME_CHARS]


def _find(asked: Sequence[AskedSkill], skills: Skills) -> list[Manifest]:
    found = []
    for one in asked:
        try:
            found.append(skills.find(one.name))
        except SkillNotFound as error:
            raise SkillNotFound(error.message, param=one.param) from error
    return found


def _to_tool(name: str, manifest: Manifest) -> Tool:
    return Tool(FunctionDefinition(name, manifest.description or None, manifest.input_schema))


def _limits(asked: SkillLimits | None, settings: SkillSettings) -> LoopLimits:
    given = asked or SkillLimits()
    return LoopLimits(
        min(given.max_steps or settings.max_steps, settings.max_steps),
        min(given.max_seconds or settings.max_loop_s, settings.max_loop_s),
        given.max_tokens,
    )


def _resumed(request: ChatRequest, plan: SkillPlan) -> list[ToolCall]:
    """The calls to go on with: of skills, decided or not, for without them nothing can go on."""
    calls = unanswered_calls(request.messages)
    for call in calls:
        if call.id in (request.skill_approvals or {}) and call.function.name not in plan.skills:
            raise InvalidRequest(
                f"the call {call.id!r} is of {call.function.name!r}, "
                "which is no skill of this request",
                param="skill_approvals",
            )
    return [call for call in calls if call.function.name in plan.skills]
