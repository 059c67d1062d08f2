"""Fields of a request that name skills, and what becomes of them before anything starts."""

import json
from typing import Any

import msgspec
import pytest

from lmx.config import SkillSettings
from lmx.errors import InvalidRequest, RequestError, SkillNotFound
from lmx.schema.chat_request import ChatRequest, parse_chat_request
from lmx.skills.manifest import Manifest
from lmx.skills.plan import NAME_CHARS, PlannedRequest, name_functions, plan_skills
from tests.chat_bodies import USER
from tests.skill_bench import FakeSkills

CLOCK = {"type": "function", "function": {"name": "clock"}}


def parse(**fields: Any) -> ChatRequest:
    """A request with these fields."""
    return parse_chat_request(json.dumps({"messages": [USER], **fields}).encode())


def plan(*more: Manifest, **fields: Any) -> PlannedRequest:
    """What becomes of a request with these fields, where these skills exist, too."""
    return plan_skills(parse(**fields), FakeSkills(*more), SkillSettings())


def skill(name: str, namespace: str = "local") -> Manifest:
    """Any skill of that name."""
    return Manifest(name=name, namespace=namespace, kind="internal")


@pytest.mark.parametrize(
    "fields",
    [
        {"skills": ["add"]},
        {"skills": ["builtin/add"]},
        {"skills": ["builtin/add@1.0.0", "add"]},
        {"tools": [{"type": "skill", "skill": {"name": "add"}}]},
        {"tools": [{"type": "skill", "name": "add"}]},
        {"tools": [CLOCK, {"type": "skill", "name": "add"}], "skills": ["add"]},
    ],
)
def test_every_spelling_names_the_skill_once(fields: dict[str, Any]) -> None:
    """By name or reference, in either field; twice is once."""
    assert ["builtin/add@1.0.0"] == [one.reference for one in plan(**fields).plan.skills.values()]


def test_skills_are_tools_beside_the_clients_own() -> None:
    """With the manifest's description and schema; only the client's are the client's to run."""
    planned = plan(tools=[CLOCK], skills=["wait", "add"])
    shown = [tool.function for tool in planned.first.own_tools]
    assert ["clock", "wait", "add"] == [function.name for function in shown]
    assert "Takes its time." == shown[1].description
    assert {"clock"} == planned.plan.client_tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"skills": ["add", "none"]}, "skills[1]"),
        ({"tools": [{"type": "skill", "skill": {"name": "none"}}]}, "tools[0].skill.name"),
        ({"tools": [CLOCK, {"type": "skill", "name": "none"}]}, "tools[1].name"),
    ],
)
def test_an_unknown_skill_names_its_field(fields: dict[str, Any], param: str) -> None:
    """404, before anything starts."""
    with pytest.raises(SkillNotFound) as caught:
        plan(**fields)
    assert param == caught.value.param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"skills": ["add"], "n": 2}, "n"),
        ({"skills": [""]}, "skills[0]"),
        ({"skills": "add"}, "skills"),
        ({"skills": [], "skill_limits": {"max_steps": 1}}, "skill_limits"),
        ({"skill_approvals": {"a": True}}, "skill_approvals"),
        ({"skills": ["add"], "skill_limits": {"max_steps": 0}}, "skill_limits.max_steps"),
        ({"skills": ["add"], "skill_limits": {"max_seconds": 0}}, "skill_limits.max_seconds"),
        ({"skills": ["add"], "skill_limits": {"max_tokens": 0}}, "skill_limits.max_tokens"),
        ({"skills": ["add"], "skill_limits": {"steps": 1}}, "skill_limits"),
        ({"skills": ["add"], "skill_approvals": {"a": 1}}, "skill_approvals"),
        ({"tools": [{"type": "skill"}]}, "tools[0].skill"),
        ({"tools": [{"type": "skill", "name": "a", "skill": {"name": "a"}}]}, "tools[0].skill"),
        ({"tools": [{"type": "skill", "skill": {}}]}, "tools[0].skill.name"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], param: str) -> None:
    """A 400 that names the field."""
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    assert param == caught.value.param


def test_skills_of_a_preset_are_checked_as_well() -> None:
    """They come after the request was read."""
    filled = msgspec.structs.replace(parse(n=2), skills=["add"])
    with pytest.raises(InvalidRequest) as caught:
        plan_skills(filled, FakeSkills(), SkillSettings())
    assert "n" == caught.value.param


def test_functions_are_named_as_models_may_name_them() -> None:
    """Other characters become underscores, long names are cut, shared ones get the namespace."""
    made = name_functions(
        [skill("a.b"), skill("x" * 64), skill("same", "one"), skill("same", "two"), skill("clock")],
        frozenset({"clock"}),
    )
    names = ["a_b", "x" * NAME_CHARS, "one__same", "two__same", "local__clock"]
    assert names == list(made)


@pytest.mark.parametrize(
    "found", [[skill("a.b"), skill("a_b")], [skill("x", "n" * 64), skill("x", "n" * 65)]]
)
def test_functions_that_cannot_be_told_apart_are_refused(found: list[Manifest]) -> None:
    """Even with their namespaces."""
    with pytest.raises(InvalidRequest):
        name_functions(found)


def test_two_versions_of_a_skill_cannot_be_told_apart() -> None:
    """The client is told, not the model."""
    new = Manifest(name="say", version="2.0.0", kind="internal")
    with pytest.raises(InvalidRequest) as caught:
        plan(new, skills=["local/say@1.0.0", "local/say@2.0.0"])
    assert "skills" == caught.value.param


def test_a_choice_may_name_a_skills_function() -> None:
    """It counts for the first turn."""
    choice = {"type": "function", "function": {"name": "add"}}
    planned = plan(skills=["add"], tool_choice=choice)
    assert ("add", "auto") == (planned.first.tool_choice.function.name, planned.later.tool_choice)
