"""Skills as an MCP server shows them, on the official SDK: tools, prompts and resources.

The SDK speaks the protocol, in both of its eras: sessions that begin with ``initialize``, and since
2026-07-28 requests that stand alone. Here is what it asks for: lists, calls and documents. A call
ends when its client leaves, cancels, or ends its session.

Theory of operation. The SDK keeps a session's calls in tasks of its session manager, and in the
older era does not end one whose request is gone. No answer could be fetched later here, so the call
watches an event that `lmx.skills.mcp.host` leaves in the request's scope.
"""

import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import mcp_types as types
import trio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ToolsListChanged

from lmx import __version__
from lmx.daemon.waiting import wait_first
from lmx.errors import LmxError, SkillNotFound
from lmx.schema.skill_documents import output_text
from lmx.skills.catalogue import (
    DOCUMENT_TYPE,
    NamedSkill,
    document_of,
    find_document,
    find_named,
    prompt_fields,
    prompts_of,
    tools_of,
    typed_arguments,
    uri_of,
)
from lmx.skills.manifest import Manifest
from lmx.skills.mcp.host import GONE, MESSAGE_BYTES, Receive, Scope, Send
from lmx.skills.outcome import Outcome
from lmx.skills.service import Skills

# Most sessions at a time, and how long one may have no request and no open stream.
SESSIONS = 256
SESSION_IDLE_S = 30 * 60.0
# How often the list of skills is looked at for a change, a comparison of two numbers.
WATCH_S = 1.0
# A client that takes no notification in this time does not get it.
TELL_LIMIT_S = 2.0
# How long somebody has to decide whether a skill may run.
APPROVAL_LIMIT_S = 600.0
APPROVAL_KEY = "approval"
RESOURCE_NOT_FOUND = -32002  # MCP before 2026-07-28
INSTRUCTIONS = "Skills of an LMX server. Calls that need approval ask for it by elicitation."
# Of a call's arguments, in a question about it.
SHOWN_CHARACTERS = 500
# One question without fields: the answer is whether it was accepted.
NO_FIELDS: dict[str, Any] = {"type": "object", "properties": {}}

Context = ServerRequestContext[Any, Any]


class _Server(Server[Any]):
    """The SDK's server, which says that it tells of changes."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        told = notification_options or NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(told, experimental_capabilities, extensions)


class SkillServer:
    """One life of the server.

    Args:
        skills: What is served.
        sessions: Most sessions at a time.
        idle_s: How long a session may be idle.
        watch_s: How often the list of skills is looked at.
    """

    def __init__(
        self,
        skills: Skills,
        *,
        sessions: int = SESSIONS,
        idle_s: float = SESSION_IDLE_S,
        watch_s: float = WATCH_S,
    ) -> None:
        self._skills = skills
        self._watch_s = watch_s
        self._bus = InMemorySubscriptionBus()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        server = _Server(
            "lmx",
            version=__version__,
            title="LMX",
            instructions=INSTRUCTIONS,
            get_tool_input_schema=self._schema_of,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscriptions_listen=ListenHandler(
                self._bus, max_subscriptions=sessions, max_buffered_events=64
            ),
        )
        server.middleware.clear()  # traces for a collector that nobody runs
        server.add_notification_handler(
            "notifications/initialized", types.NotificationParams, self._note_session
        )
        self._manager = StreamableHTTPSessionManager(
            app=server,
            session_idle_timeout=idle_s,
            max_sessions=sessions,
            max_request_body_size=MESSAGE_BYTES,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """See `lmx.skills.mcp.host.McpServer`."""
        async with self._manager.run():
            yield

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `lmx.skills.mcp.host.McpServer`."""
        await self._manager.handle_request(scope, receive, send)

    async def watch(self) -> NoReturn:
        """See `lmx.skills.mcp.host.McpServer`."""
        seen = self._skills.changed_s
        while True:
            await trio.sleep(self._watch_s)
            if self._skills.changed_s != seen:
                seen = self._skills.changed_s
                await self._tell()

    async def _tell(self) -> None:
        """Tell every client that listens; whoever does not take it hears nothing."""
        for event in (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()):
            await self._bus.publish(event)
        async with trio.open_nursery() as nursery:
            for connection in list(self._connections):
                nursery.start_soon(_tell_session, connection)

    async def _note_session(self, context: Context, _: types.NotificationParams) -> None:
        # The SDK has no public way from a request to its connection, which alone can be told of
        # changes later; it drops out of the set with its session.
        self._connections.add(context.session._connection)  # noqa: SLF001
        await trio.lowlevel.checkpoint()

    def _schema_of(self, name: str) -> Mapping[str, Any] | None:
        try:
            return find_named(tools_of(self._skills), self._skills, name).input_schema
        except SkillNotFound:
            return None

    async def _list_tools(
        self, _: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        await trio.lowlevel.checkpoint()
        return types.ListToolsResult(tools=[_tool(one) for one in tools_of(self._skills)])

    async def _list_prompts(
        self, _: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        await trio.lowlevel.checkpoint()
        return types.ListPromptsResult(prompts=[_prompt(one) for one in prompts_of(self._skills)])

    async def _list_resources(
        self, _: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        await trio.lowlevel.checkpoint()
        manifests = self._skills.list(latest_only=True)
        return types.ListResourcesResult(resources=[_resource(one) for one in manifests])

    async def _list_templates(
        self, _: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        await trio.lowlevel.checkpoint()
        template = types.ResourceTemplate(
            name="skill",
            uri_template="skill://{namespace}/{name}",
            description="What a skill does and wants.",
            mime_type=DOCUMENT_TYPE,
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        await trio.lowlevel.checkpoint()
        try:
            manifest = find_document(self._skills, params.uri)
        except SkillNotFound as error:
            is_session = context.session.protocol_version < "2026-07-28"
            code = RESOURCE_NOT_FOUND if is_session else types.INVALID_PARAMS
            raise MCPError(code, error.message, {"uri": params.uri}) from error
        contents = types.TextResourceContents(
            uri=params.uri, mime_type=DOCUMENT_TYPE, text=document_of(manifest)
        )
        return types.ReadResourceResult(contents=[contents])

    async def _get_prompt(
        self, context: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        manifest = self._find(prompts_of(self._skills), params.name)
        given = params.arguments or {}
        missing = [
            one.name for one in prompt_fields(manifest) if one.is_required and one.name not in given
        ]
        if missing:
            raise MCPError(types.INVALID_PARAMS, f"{params.name} needs {', '.join(missing)}")
        outcome = await self._run(context, manifest, typed_arguments(manifest, given))
        if not outcome.ok:
            raise MCPError(types.INTERNAL_ERROR, _why(manifest, outcome))
        content = types.TextContent(type="text", text=output_text(outcome.output))
        return types.GetPromptResult(
            description=manifest.description,
            messages=[types.PromptMessage(role="user", content=content)],
        )

    async def _call_tool(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        manifest = self._find(tools_of(self._skills), params.name)
        arguments = params.arguments or {}
        decision = (params.input_responses or {}).get(APPROVAL_KEY)
        is_approved = isinstance(decision, types.ElicitResult) and decision.action == "accept"
        outcome = await self._run(context, manifest, arguments, approved=is_approved)
        if outcome.requires_approval and decision is None and _can_ask(context):
            question = _question(manifest, arguments)
            if not context.session.can_send_request:  # it has to call again, with the answer
                return types.InputRequiredResult(input_requests={APPROVAL_KEY: question})
            if await self._ask(context, question):
                outcome = await self._run(context, manifest, arguments, approved=True)
        return _result(manifest, outcome)

    async def _ask(self, context: Context, question: types.ElicitRequest) -> bool:
        """Whether somebody at the client's end allows the call."""
        params = question.params
        if not isinstance(params, types.ElicitRequestFormParams):
            return False
        with trio.move_on_after(APPROVAL_LIMIT_S):
            try:
                answer = await context.session.elicit_form(
                    params.message, params.requested_schema, context.request_id
                )
            except (MCPError, NoBackChannelError):
                return False
            return answer.action == "accept"
        return False

    def _find(self, shown: list[NamedSkill], name: str) -> Manifest:
        try:
            return find_named(shown, self._skills, name)
        except SkillNotFound as error:
            raise MCPError(types.INVALID_PARAMS, error.message) from error

    async def _run(
        self,
        context: Context,
        manifest: Manifest,
        arguments: dict[str, Any],
        *,
        approved: bool = False,
    ) -> Outcome:
        """Run a skill until it is done or its client is gone."""
        scope = context.request.scope if context.request is not None else {}
        outcomes: list[Outcome] = []
        call = partial(
            self._skills.call,
            manifest,
            arguments,
            approved=approved,
            request_id=scope.get("lmx.request_id", ""),
        )

        async def run() -> None:
            try:
                outcomes.append(await call())
            except LmxError as error:  # such as a full queue
                outcomes.append(Outcome(ok=False, error=error.message, denied=True))

        await wait_first(scope.get(GONE, trio.Event()).wait, run)
        return outcomes[0] if outcomes else Outcome(ok=False, error="The client is gone")


async def _tell_session(connection: Connection) -> None:
    with trio.move_on_after(TELL_LIMIT_S):
        await connection.send_tool_list_changed()
        await connection.send_prompt_list_changed()
        await connection.send_resource_list_changed()


def _can_ask(context: Context) -> bool:
    wanted = types.ClientCapabilities(elicitation=types.ElicitationCapability())
    return context.session.check_client_capability(wanted)


def _question(manifest: Manifest, arguments: dict[str, Any]) -> types.ElicitRequest:
    said = output_text(arguments)
    shown = said if len(said) <= SHOWN_CHARACTERS else said[:SHOWN_CHARACTERS] + "…"
    message = f"May the skill {manifest.reference} run with {shown}?"
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(message=message, requested_schema=NO_FIELDS)
    )


def _result(manifest: Manifest, outcome: Outcome) -> types.CallToolResult:
    if not outcome.ok:
        content = types.TextContent(type="text", text=_why(manifest, outcome))
        return types.CallToolResult(content=[content], is_error=True)
    content = types.TextContent(type="text", text=output_text(outcome.output))
    structured = outcome.output if isinstance(outcome.output, dict) else None
    return types.CallToolResult(content=[content], structured_content=structured)


def _why(manifest: Manifest, outcome: Outcome) -> str:
    if outcome.requires_approval:
        return (
            f"{manifest.reference} needs approval. A client with elicitation is asked for it; "
            f'others call POST /v1/skills/mcp/call with "approved": true'
        )
    return outcome.error or "The skill failed"


def _tool(shown: NamedSkill) -> types.Tool:
    manifest = shown.manifest
    hints = types.ToolAnnotations(open_world_hint=manifest.permissions.network)
    return types.Tool(
        name=shown.name,
        title=manifest.qualified_name,
        description=manifest.description,
        input_schema={"type": "object", **manifest.input_schema},
        annotations=hints,
    )


def _prompt(shown: NamedSkill) -> types.Prompt:
    arguments = [
        types.PromptArgument(name=one.name, description=one.description, required=one.is_required)
        for one in prompt_fields(shown.manifest)
    ]
    return types.Prompt(
        name=shown.name,
        title=shown.manifest.qualified_name,
        description=shown.manifest.description,
        arguments=arguments,
    )


def _resource(manifest: Manifest) -> types.Resource:
    return types.Resource(
        uri=uri_of(manifest),
        name=manifest.qualified_name,
        description=manifest.description,
        mime_type=DOCUMENT_TYPE,
    )
