"""The routes of skills, as the API's description lists them."""

from lmx.errors import BodyTimeout, BodyTooLarge, InvalidRequest, LmxError, QueueFull, SkillNotFound
from lmx.schema.route import BODY_ERRORS, Errors, Route
from lmx.schema.skills import (
    CallReply,
    CallRequest,
    CapabilityReply,
    EmptyRequest,
    ExecuteReply,
    ExecuteRequest,
    InvokeReply,
    InvokeRequest,
    PromptList,
    PromptReply,
    PromptRequest,
    ResourceList,
    ResourceReply,
    ResourceRequest,
    RpcNotice,
    RpcReply,
    RpcRequest,
    SkillList,
    SkillQuery,
    SkillRow,
    ToolList,
)

RUN_ERRORS: Errors = (*BODY_ERRORS, SkillNotFound, QueueFull, LmxError)

SESSION_HEADERS = {
    "Mcp-Session-Id": "The session, as the answer to `initialize` named it.",
    "MCP-Protocol-Version": "The version that was agreed on.",
}

SKILL_ROUTES: tuple[Route, ...] = (
    Route(
        "post",
        "/mcp",
        "A message of MCP over streamable HTTP",
        RpcReply,
        request=RpcRequest,
        event=RpcReply,
        errors=(BodyTooLarge, BodyTimeout, LmxError),
        headers=SESSION_HEADERS,
    ),
    Route(
        "get",
        "/mcp",
        "What an MCP session tells of its own accord",
        None,
        event=RpcNotice,
        headers=SESSION_HEADERS,
    ),
    Route("delete", "/mcp", "End an MCP session", None, headers=SESSION_HEADERS),
    Route(
        "get",
        "/v1/skills",
        "List the skills",
        SkillList,
        errors=(InvalidRequest,),
        query=SkillQuery,
    ),
    Route("get", "/v1/skills/{skill}", "Show one skill", SkillRow, errors=(SkillNotFound,)),
    Route(
        "post",
        "/v1/skills/{skill}/execute",
        "Call a skill; refusals are answers with flags",
        ExecuteReply,
        request=ExecuteRequest,
        errors=RUN_ERRORS,
        needs_body=False,
    ),
    Route(
        "post",
        "/v1/skills/openclaw/invoke",
        "Call a skill in the spelling of OpenClaw bridges",
        InvokeReply,
        request=InvokeRequest,
        errors=RUN_ERRORS,
    ),
    Route("get", "/v1/skills/mcp/tools", "List the skills that are tools", ToolList),
    Route(
        "post",
        "/v1/skills/mcp/call",
        "Call a tool",
        CallReply,
        request=CallRequest,
        errors=RUN_ERRORS,
    ),
    Route("get", "/v1/skills/mcp/prompts", "List the skills that are prompts", PromptList),
    Route("get", "/v1/skills/mcp/resources", "List the documents about skills", ResourceList),
    Route("get", "/v1/skills/mcp/capabilities", "What can be asked for", CapabilityReply),
    *(
        Route(
            "post",
            path,
            "Fill in a prompt",
            PromptReply,
            request=PromptRequest,
            errors=RUN_ERRORS,
        )
        for path in ("/v1/skills/mcp/prompts/get", "/mcp/prompts/get")
    ),
    Route(
        "post",
        "/mcp/resources/read",
        "Read a document about a skill",
        ResourceReply,
        request=ResourceRequest,
        errors=(*BODY_ERRORS, SkillNotFound),
    ),
    *(
        Route(
            "post",
            path,
            summary,
            reply,
            request=EmptyRequest,
            errors=BODY_ERRORS,
            needs_body=False,
        )
        for path, summary, reply in (
            ("/mcp/prompts/list", "List the skills that are prompts", PromptList),
            ("/mcp/resources/list", "List the documents about skills", ResourceList),
            ("/mcp/capabilities", "What can be asked for", CapabilityReply),
        )
    ),
)
