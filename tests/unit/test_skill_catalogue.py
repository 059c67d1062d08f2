"""Skills in MCP's terms: names that fit, prompts' fields, typed arguments, documents."""

from typing import Any

import pytest

from lmx.errors import SkillNotFound
from lmx.skills.catalogue import (
    document_of,
    find_document,
    find_named,
    prompt_fields,
    prompts_of,
    tools_of,
    typed_arguments,
    uri_of,
)
from lmx.skills.manifest import HttpCall
from tests.scripted_skills import ScriptedSkills, manifest


def shown(*more: Any) -> list[str]:
    """Names of the tools, with more skills than there are."""
    skills = ScriptedSkills()
    skills.manifests = list(more)
    return [one.name for one in tools_of(skills)]


def test_names_are_made_to_fit() -> None:
    """Dots and such become underscores, and long names are cut."""
    assert ["a_b"] == shown(manifest("a.b"))
    assert ["x" * 64] == shown(manifest("x" * 64))


def test_a_shared_name_gets_its_namespace() -> None:
    """Also where the names differ in unfit characters alone."""
    assert ["one__a", "two__a"] == shown(
        manifest("a", namespace="one"), manifest("a", namespace="two")
    )
    assert ["one__a_b", "two__a_b"] == shown(
        manifest("a.b", namespace="one"), manifest("a_b", namespace="two")
    )


def test_a_skill_is_found_by_what_was_shown_and_by_its_names() -> None:
    """But not as what it is none of."""
    skills = ScriptedSkills()
    tools, prompts = tools_of(skills), prompts_of(skills)
    for name in ("add", "builtin/add", "builtin/add@1.0.0"):
        assert "builtin/add@1.0.0" == find_named(tools, skills, name).reference
    assert "local/greet@1.0.0" == find_named(prompts, skills, "greet").reference
    for given, name in ((tools, "greet"), (prompts, "add"), (tools, "none")):
        with pytest.raises(SkillNotFound):
            find_named(given, skills, name)


@pytest.mark.parametrize("schema", [{}, {"properties": 5}, {"properties": {}, "required": "a"}])
def test_odd_schemas_have_no_fields(schema: dict[str, Any]) -> None:
    """Whatever a manifest's schema says."""
    assert [] == prompt_fields(manifest("p", kind="prompt", input_schema=schema))


def test_texts_become_what_the_schema_wants() -> None:
    """Where they are JSON of it; the rest stays text for the schema to refuse."""
    properties = {
        "n": {"type": "integer"},
        "flag": {"type": "boolean"},
        "text": {"type": "string"},
        "either": {"type": ["integer", "string"]},
        "any": True,
    }
    skill = manifest("p", kind="prompt", input_schema={"type": "object", "properties": properties})
    given = {"n": "5", "flag": "true", "text": "5", "either": "5", "any": "5", "other": "5"}
    expected = {"n": 5, "flag": True, "text": "5", "either": "5", "any": "5", "other": "5"}
    assert expected == typed_arguments(skill, given)
    assert {"n": "five"} == typed_arguments(skill, {"n": "five"})


def test_documents_say_what_and_not_how() -> None:
    """Addresses and headers of a skill are nobody's business."""
    call = HttpCall(url="http://secret.example/x", headers={"authorization": "Bearer key"})
    text = document_of(manifest("a", kind="http", http=call, risk_tags=("network",)))
    assert "# builtin/a" in text
    assert "network" in text
    assert "secret" not in text
    assert "key" not in text


def test_documents_are_found_by_their_address() -> None:
    """And by nothing else."""
    skills = ScriptedSkills()
    add = skills.find("add")
    assert "skill://builtin/add" == uri_of(add)
    assert add == find_document(skills, "skill://builtin/add")
    for uri in (
        "skill://builtin/none",
        "skill:add",
        "http://builtin/add",
        "file:///etc/passwd",
        "",
    ):
        with pytest.raises(SkillNotFound) as caught:
            find_document(skills, uri)
        assert "uri" == caught.value.param
