"""The routes of skills, on Quart: listed, shown, called, and in MCP's terms without MCP's wire.

A refused call is an answer with flags and status 200. A client that goes away cancels its handler,
and with it the run.
"""

from typing import Any

from quart import Blueprint, Response, request

from lmx.errors import SkillNotFound
from lmx.schema.skills import (
    CapabilityReply,
    parse_call_request,
    parse_empty_request,
    parse_execute_request,
    parse_invoke_request,
    parse_prompt_request,
    parse_resource_request,
    parse_skill_query,
)
from lmx.skills.catalogue import find_document, find_named, prompts_of, tools_of
from lmx.skills.manifest import Manifest
from lmx.skills.outcome import Outcome
from lmx.skills.service import Skills
from lmx.web.admin import ModelIdConverter
from lmx.web.bodies import json_response, read_body
from lmx.web.exchange import REQUEST_ID
from lmx.web.skill_views import (
    call_reply,
    execute_reply,
    invoke_reply,
    prompt_list,
    prompt_reply,
    resource_list,
    resource_reply,
    skill_list,
    skill_row,
    tool_list,
)


class SkillNameConverter(ModelIdConverter):
    """A skill's name that is no other route of these; it may hold slashes."""

    regex = (
        r"(?!mcp/(?:tools|prompts|resources|capabilities|call|prompts/get)\Z)"
        r"(?!openclaw/invoke\Z)(?!.*/execute\Z)" + ModelIdConverter.regex
    )
    part_isolating = False


def skill_routes(skills: Skills) -> Blueprint:
    """The routes, for an application that knows `ModelIdConverter` and `SkillNameConverter`.

    Args:
        skills: All skills there are.
    """
    routes = Blueprint("skills", __name__)
    views = SkillRoutes(skills)
    routes.get("/v1/skills")(views.list)
    routes.get("/v1/skills/<skill_name:name>", merge_slashes=False)(views.show)
    routes.post("/v1/skills/<model_id:name>/execute", merge_slashes=False)(views.execute)
    routes.post("/v1/skills/openclaw/invoke")(views.invoke)
    routes.get("/v1/skills/mcp/tools")(views.tools)
    routes.post("/v1/skills/mcp/call")(views.call)
    routes.get("/v1/skills/mcp/prompts")(views.prompts)
    routes.post("/v1/skills/mcp/prompts/get")(views.get_prompt)
    routes.get("/v1/skills/mcp/resources")(views.resources)
    routes.get("/v1/skills/mcp/capabilities")(views.capabilities)
    routes.post("/mcp/prompts/list")(views.prompts)
    routes.post("/mcp/prompts/get")(views.get_prompt)
    routes.post("/mcp/resources/list")(views.resources)
    routes.post("/mcp/resources/read")(views.read_resource)
    routes.post("/mcp/capabilities")(views.capabilities)
    return routes


class SkillRoutes:
    """The handlers.

    Args:
        skills: All skills there are.
    """

    def __init__(self, skills: Skills) -> None:
        self._skills = skills

    async def list(self) -> Response:
        """``GET /v1/skills``."""
        query = parse_skill_query(request.args)
        return json_response(skill_list(self._skills, latest_only=query.latest_only))

    async def show(self, name: str) -> Response:
        """``GET /v1/skills/{name}``."""
        return json_response(skill_row(self._skills.find(name)))

    async def execute(self, name: str) -> Response:
        """``POST /v1/skills/{name}/execute``."""
        asked = await read_body(parse_execute_request)
        manifest = self._skills.find(name)
        outcome = await self._call(
            manifest, asked.arguments, approved=asked.approved, timeout_s=asked.timeout_sec
        )
        return json_response(execute_reply(manifest, outcome))

    async def invoke(self) -> Response:
        """``POST /v1/skills/openclaw/invoke``."""
        asked = await read_body(parse_invoke_request)
        manifest = find_named(tools_of(self._skills), self._skills, asked.skill)
        outcome = await self._call(
            manifest, asked.values, approved=asked.approved, timeout_s=asked.timeout_sec
        )
        return json_response(invoke_reply(manifest, outcome))

    async def tools(self) -> Response:
        """``GET /v1/skills/mcp/tools``."""
        return json_response(tool_list(self._skills))

    async def call(self) -> Response:
        """``POST /v1/skills/mcp/call``; prompts can be called as well."""
        asked = await read_body(parse_call_request)
        manifest = self._find(asked.name)
        outcome = await self._call(
            manifest, asked.arguments, approved=asked.approved, timeout_s=asked.timeout_sec
        )
        return json_response(call_reply(manifest, outcome))

    async def prompts(self) -> Response:
        """``GET /v1/skills/mcp/prompts`` and ``POST /mcp/prompts/list``."""
        await _read_nothing()
        return json_response(prompt_list(self._skills))

    async def get_prompt(self) -> Response:
        """``POST /v1/skills/mcp/prompts/get`` and ``POST /mcp/prompts/get``."""
        asked = await read_body(parse_prompt_request)
        manifest = find_named(prompts_of(self._skills), self._skills, asked.name)
        outcome = await self._call(manifest, asked.arguments)
        return json_response(prompt_reply(manifest, outcome))

    async def resources(self) -> Response:
        """``GET /v1/skills/mcp/resources`` and ``POST /mcp/resources/list``."""
        await _read_nothing()
        return json_response(resource_list(self._skills))

    async def read_resource(self) -> Response:
        """``POST /mcp/resources/read``."""
        asked = await read_body(parse_resource_request)
        return json_response(resource_reply(find_document(self._skills, asked.uri), asked.uri))

    async def capabilities(self) -> Response:
        """``GET /v1/skills/mcp/capabilities`` and ``POST /mcp/capabilities``."""
        await _read_nothing()
        return json_response(CapabilityReply())

    def _find(self, name: str) -> Manifest:
        try:
            return find_named(tools_of(self._skills), self._skills, name)
        except SkillNotFound:
            return find_named(prompts_of(self._skills), self._skills, name)

    async def _call(
        self,
        manifest: Manifest,
        arguments: Any,
        *,
        approved: bool | None = None,
        timeout_s: float | None = None,
    ) -> Outcome:
        return await self._skills.call(
            manifest,
            {} if arguments is None else arguments,
            approved=bool(approved),
            timeout_s=timeout_s,
            request_id=str(dict(request.scope).get(REQUEST_ID, "")),
        )


async def _read_nothing() -> None:
    """Read the body of a request that has nothing to say, and refuse one that does."""
    if request.method == "POST":
        await read_body(parse_empty_request)
