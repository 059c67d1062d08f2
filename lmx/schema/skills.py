"""Skills as clients read and call them: bodies, query strings and answers.

Two families of clients spell the same things differently, so some values stand there twice, such as
`inputSchema` and `input_schema`. What a call came to is told by flags under status 200; only what
does not exist and what is malformed is an error.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from lmx.errors import InvalidRequest
from lmx.schema.admin_requests import parse_body
from lmx.schema.json_body import parse_query
from lmx.schema.status import Yes

SkillNameField = Annotated[
    str, Meta(min_length=1, max_length=256, description="A name, a qualified name or a reference.")
]
Uri = Annotated[str, Meta(min_length=1, max_length=2048)]
Arguments = Annotated[
    dict[str, Any] | str | None, Meta(description="An object, or its text as JSON.")
]
Approved = Annotated[bool | None, Meta(description="Somebody has allowed this very call.")]
TimeoutSeconds = Annotated[
    float, Meta(gt=0, le=86_400, description="Less time than the skill is given.")
]


class SkillQuery(Struct, kw_only=True):
    """Which skills to list."""

    latest_only: bool = False


class SkillRow(Struct, frozen=True, kw_only=True):
    """One skill.

    Attributes:
        schema: Of its manifest.
        timeout_sec: How long a run may take; `None` for the configured time.
    """

    schema: str
    name: str
    namespace: str
    version: str
    qualified_name: str
    reference: str
    description: str
    kind: str
    timeout_sec: float | None
    permission_tags: list[str]
    risk_tags: list[str]
    requires_approval: bool
    input_schema: dict[str, Any]


class BrokenRow(Struct, frozen=True, kw_only=True):
    """A manifest or a server that cannot be used, and why."""

    path: str
    error: str


class SkillList(Struct, frozen=True, kw_only=True):
    """All skills, and what could not become one."""

    object: Literal["list"] = "list"
    data: list[SkillRow]
    broken: list[BrokenRow]


class ExecuteRequest(Struct, kw_only=True):
    """A call of the skill in the path."""

    arguments: Arguments = None
    approved: Approved = None
    timeout_sec: TimeoutSeconds | None = None


class CallRequest(ExecuteRequest, kw_only=True):
    """A call of a skill by its name."""

    name: SkillNameField


class PromptRequest(Struct, kw_only=True):
    """Which prompt to fill in, and with what."""

    name: SkillNameField
    arguments: Arguments = None


class ResourceRequest(Struct, kw_only=True):
    """Which document to read."""

    uri: Uri


class EmptyRequest(Struct, kw_only=True):
    """Nothing has to be said; a cursor is accepted, because lists come whole."""

    cursor: Annotated[Any, Meta(description="Accepted; lists come whole.")] = None


class InvokeRequest(Struct, kw_only=True):
    """A call in the spelling of OpenClaw bridges; the first name and arguments there count."""

    name: SkillNameField | None = None
    tool: SkillNameField | None = None
    tool_name: SkillNameField | None = None
    arguments: Arguments = None
    input: Arguments = None
    params: Arguments = None
    approved: Approved = None
    timeout_sec: TimeoutSeconds | None = None

    @property
    def skill(self) -> str:
        """The skill that is meant; empty for none."""
        return self.name or self.tool or self.tool_name or ""

    @property
    def values(self) -> dict[str, Any] | str | None:
        """The arguments that are meant."""
        given = (self.arguments, self.input, self.params)
        return next((one for one in given if one is not None), None)


class RunFields(Struct, frozen=True, kw_only=True):
    """How a call ended."""

    ok: bool
    error: str | None
    duration_ms: float
    timed_out: bool
    denied: bool
    requires_approval: bool


class ExecuteReply(RunFields, frozen=True, kw_only=True):
    """How a call ended, and what it answered."""

    skill: str
    output: Any


class CallReply(RunFields, frozen=True, kw_only=True):
    """How a call ended, and what it answered."""

    skill_name: str
    kind: str
    output: Any


class InvokeReply(RunFields, frozen=True, kw_only=True):
    """How a call ended, and what it answered."""

    object: Literal["openclaw.tool_result"] = "openclaw.tool_result"
    tool: str
    result: Any


class ToolRow(Struct, frozen=True, kw_only=True):
    """A skill as a tool. The schema stands there in both spellings.

    Attributes:
        aliases: Other names by which it can be called.
    """

    name: str
    description: str
    inputSchema: dict[str, Any]  # noqa: N815  # MCP's spelling
    input_schema: dict[str, Any]
    namespace: str
    version: str
    requires_approval: bool
    aliases: list[str]


class ToolList(Struct, frozen=True, kw_only=True):
    """The skills that are tools.

    Attributes:
        list_changed_at: In seconds of the epoch.
    """

    tools: list[ToolRow]
    list_changed_at: float


class PromptArgument(Struct, frozen=True, kw_only=True):
    """Something a prompt wants to be told."""

    name: str
    description: str
    required: bool


class PromptRow(Struct, frozen=True, kw_only=True):
    """A skill that is a prompt."""

    name: str
    description: str
    arguments: list[PromptArgument]


class PromptList(Struct, frozen=True, kw_only=True):
    """The skills that are prompts."""

    ok: Yes = True
    prompts: list[PromptRow]


class PromptContent(Struct, frozen=True, kw_only=True):
    """Text."""

    type: Literal["text"] = "text"
    text: str


class PromptMessage(Struct, frozen=True, kw_only=True):
    """A turn of a filled-in prompt."""

    role: Literal["user"] = "user"
    content: PromptContent


class PromptReply(Struct, frozen=True, kw_only=True):
    """A prompt, filled in; or why it is not, and no messages."""

    ok: bool
    description: str
    messages: list[PromptMessage]
    error: str | None


class ResourceRow(Struct, frozen=True, kw_only=True):
    """A document about a skill."""

    uri: str
    name: str
    description: str
    mimeType: str  # noqa: N815  # MCP's spelling


class ResourceList(Struct, frozen=True, kw_only=True):
    """The documents about skills."""

    ok: Yes = True
    resources: list[ResourceRow]


class ResourceContent(Struct, frozen=True, kw_only=True):
    """A document."""

    uri: str
    mimeType: str  # noqa: N815  # MCP's spelling
    text: str


class ResourceReply(Struct, frozen=True, kw_only=True):
    """A document, read."""

    ok: Yes = True
    contents: list[ResourceContent]


class ListChanged(Struct, frozen=True, kw_only=True):
    """Whether a change of a list is told."""

    listChanged: Yes = True  # noqa: N815  # MCP's spelling


class Capabilities(Struct, frozen=True, kw_only=True):
    """What can be asked for, in MCP's terms."""

    tools: ListChanged = ListChanged()
    prompts: ListChanged = ListChanged()
    resources: ListChanged = ListChanged()


class CapabilityReply(Struct, frozen=True, kw_only=True):
    """What can be asked for."""

    ok: Yes = True
    capabilities: Capabilities = Capabilities()


class RpcRequest(Struct, kw_only=True):
    """A message of MCP; what it may hold, MCP's specification says."""

    jsonrpc: Literal["2.0"]
    method: str | None = None
    id: str | int | None = None
    params: dict[str, Any] | None = None
    result: Any = None
    error: dict[str, Any] | None = None


class RpcNotice(Struct, frozen=True, kw_only=True):
    """A notification of MCP."""

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] | UnsetType = UNSET


class RpcReply(Struct, frozen=True, kw_only=True):
    """An answer of MCP."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    result: dict[str, Any] | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


def parse_skill_query(values: Mapping[str, str]) -> SkillQuery:
    """Read a query string; unknown keys have no effect.

    Raises:
        InvalidRequest: A value is of the wrong type; `param` names it.
    """
    return parse_query(values, SkillQuery)


def parse_execute_request(body: bytes) -> ExecuteRequest:
    """Read a call of the skill in the path.

    Raises:
        InvalidRequest: Malformed; `param` names the field.
    """
    return parse_body(body, ExecuteRequest)


def parse_call_request(body: bytes) -> CallRequest:
    """Read a call by name.

    Raises:
        InvalidRequest: Malformed, or without a name.
    """
    return parse_body(body, CallRequest)


def parse_prompt_request(body: bytes) -> PromptRequest:
    """Read which prompt to fill in.

    Raises:
        InvalidRequest: Malformed, or without a name.
    """
    return parse_body(body, PromptRequest)


def parse_resource_request(body: bytes) -> ResourceRequest:
    """Read which document is wanted.

    Raises:
        InvalidRequest: Malformed, or without an address.
    """
    return parse_body(body, ResourceRequest)


def parse_empty_request(body: bytes) -> EmptyRequest:
    """Read a body that says nothing.

    Raises:
        InvalidRequest: Malformed, or it does say something.
    """
    return parse_body(body, EmptyRequest)


def parse_invoke_request(body: bytes) -> InvokeRequest:
    """Read a call in the spelling of OpenClaw bridges.

    Raises:
        InvalidRequest: Malformed, or without a name.
    """
    request = parse_body(body, InvokeRequest)
    if not request.skill:
        raise InvalidRequest("'name' is needed", param="name")
    return request
