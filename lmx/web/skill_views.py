"""Skills and the outcomes of their calls, as the routes show them."""

from typing import Any

from lmx.schema.skill_documents import output_text
from lmx.schema.skills import (
    BrokenRow,
    CallReply,
    ExecuteReply,
    InvokeReply,
    PromptArgument,
    PromptContent,
    PromptList,
    PromptMessage,
    PromptReply,
    PromptRow,
    ResourceContent,
    ResourceList,
    ResourceReply,
    ResourceRow,
    SkillList,
    SkillRow,
    ToolList,
    ToolRow,
)
from lmx.skills.catalogue import (
    DOCUMENT_TYPE,
    NamedSkill,
    document_of,
    prompt_fields,
    prompts_of,
    tools_of,
    uri_of,
)
from lmx.skills.manifest import SCHEMA_ID, Manifest
from lmx.skills.outcome import Outcome
from lmx.skills.service import Skills


def skill_row(manifest: Manifest) -> SkillRow:
    """One skill, without how it is run."""
    return SkillRow(
        schema=SCHEMA_ID,
        name=manifest.name,
        namespace=manifest.namespace,
        version=manifest.version,
        qualified_name=manifest.qualified_name,
        reference=manifest.reference,
        description=manifest.description,
        kind=manifest.kind,
        timeout_sec=manifest.timeout_s,
        permission_tags=manifest.permission_tags,
        risk_tags=list(manifest.risk_tags),
        requires_approval=manifest.requires_approval,
        input_schema=manifest.input_schema,
    )


def skill_list(skills: Skills, *, latest_only: bool) -> SkillList:
    """All skills, and what could not become one."""
    return SkillList(
        data=[skill_row(one) for one in skills.list(latest_only=latest_only)],
        broken=[BrokenRow(path=one.path, error=one.error) for one in skills.broken],
    )


def execute_reply(manifest: Manifest, outcome: Outcome) -> ExecuteReply:
    """What came of a call by path."""
    return ExecuteReply(skill=manifest.reference, output=outcome.output, **_run(outcome))


def call_reply(manifest: Manifest, outcome: Outcome) -> CallReply:
    """What came of a call by name."""
    return CallReply(
        skill_name=manifest.reference, kind=manifest.kind, output=outcome.output, **_run(outcome)
    )


def invoke_reply(manifest: Manifest, outcome: Outcome) -> InvokeReply:
    """What came of a bridge's call."""
    return InvokeReply(tool=manifest.reference, result=outcome.output, **_run(outcome))


def tool_list(skills: Skills) -> ToolList:
    """The skills that are tools."""
    return ToolList(
        tools=[_tool_row(one) for one in tools_of(skills)], list_changed_at=skills.changed_s
    )


def prompt_list(skills: Skills) -> PromptList:
    """The skills that are prompts."""
    return PromptList(prompts=[_prompt_row(one) for one in prompts_of(skills)])


def prompt_reply(manifest: Manifest, outcome: Outcome) -> PromptReply:
    """A prompt, filled in, or why not."""
    content = PromptContent(text=output_text(outcome.output))
    return PromptReply(
        ok=outcome.ok,
        description=manifest.description,
        messages=[PromptMessage(content=content)] if outcome.ok else [],
        error=outcome.error,
    )


def resource_list(skills: Skills) -> ResourceList:
    """The documents about skills."""
    rows = [
        ResourceRow(
            uri=uri_of(one),
            name=one.qualified_name,
            description=one.description,
            mimeType=DOCUMENT_TYPE,
        )
        for one in skills.list(latest_only=True)
    ]
    return ResourceList(resources=rows)


def resource_reply(manifest: Manifest, uri: str) -> ResourceReply:
    """The document about a skill."""
    text = document_of(manifest)
    return ResourceReply(contents=[ResourceContent(uri=uri, mimeType=DOCUMENT_TYPE, text=text)])


def _tool_row(shown: NamedSkill) -> ToolRow:
    manifest = shown.manifest
    return ToolRow(
        name=shown.name,
        description=manifest.description,
        inputSchema=manifest.input_schema,
        input_schema=manifest.input_schema,
        namespace=manifest.namespace,
        version=manifest.version,
        requires_approval=manifest.requires_approval,
        aliases=[manifest.qualified_name, manifest.reference],
    )


def _prompt_row(shown: NamedSkill) -> PromptRow:
    arguments = [
        PromptArgument(name=one.name, description=one.description, required=one.is_required)
        for one in prompt_fields(shown.manifest)
    ]
    return PromptRow(name=shown.name, description=shown.manifest.description, arguments=arguments)


def _run(outcome: Outcome) -> dict[str, Any]:
    return {
        "ok": outcome.ok,
        "error": outcome.error,
        "duration_ms": round(outcome.duration_ms, 3),
        "timed_out": outcome.timed_out,
        "denied": outcome.denied,
        "requires_approval": outcome.requires_approval,
    }
