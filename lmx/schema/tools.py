"""The tools a request offers and how far the model must use them.

Only function tools exist here: open models know no others.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from lmx.errors import InvalidRequest
from lmx.schema.constraints import Name


class FunctionDefinition(Struct):
    """A function the model may call. `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, tag_field="type", tag="function"):
    """One offered tool."""

    function: FunctionDefinition


class FunctionName(Struct):
    """Which function."""

    name: str


class NamedToolChoice(Struct):
    """The model must call this tool."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class ToolPlan(Struct, frozen=True):
    """What becomes of a request's tools.

    Attributes:
        tools: The ones the model is shown.
        must_call: The answer is calls of these tools.
        may_call_many: Several calls are allowed.
    """

    tools: Sequence[Tool] = ()
    must_call: bool = False
    may_call_many: bool = True


def plan_tools(
    tools: Sequence[Tool] | None, choice: ToolChoice | None, *, is_parallel: bool
) -> ToolPlan:
    """Which tools are shown and enforced. A named tool is called exactly once.

    Raises:
        InvalidRequest: Two tools share a name, or a tool must be called that is not offered.
    """
    offered = {tool.function.name: tool for tool in tools or ()}
    if len(offered) != len(tools or ()):
        raise InvalidRequest("two tools have the same name", param="tools")
    if choice == "none":
        return ToolPlan()
    if choice is None or choice == "auto":
        return ToolPlan(tuple(offered.values()), may_call_many=is_parallel)
    if not offered:
        raise InvalidRequest("'tool_choice' demands a call, but 'tools' is empty", param="tools")
    if not isinstance(choice, NamedToolChoice):
        return ToolPlan(tuple(offered.values()), must_call=True, may_call_many=is_parallel)
    named = offered.get(choice.function.name)
    if named is None:
        raise InvalidRequest(
            f"'tool_choice' names {choice.function.name!r}, which 'tools' does not offer",
            param="tool_choice.function.name",
        )
    return ToolPlan((named,), must_call=True, may_call_many=False)


def parameters_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments; a function without any takes an empty object."""
    return tool.function.parameters or {"type": "object", "properties": {}}


def to_template(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it."""
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description is not None:
        function["description"] = tool.function.description
    return {
        "type": "function",
        "function": {**function, "parameters": parameters_schema(tool)},
    }
