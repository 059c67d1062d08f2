"""OpenAI's Chat Completions request: bytes to a typed request to the worker's `Generate`.

Every documented field either has an effect, is neutral at the value given, only identifies the
caller, or is refused by name. Below this module nobody says "OpenAI".
"""

import functools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt, Generate
from lmx.schema.constraints import ResponseFormat, choose_grammar
from lmx.schema.fields import (
    LogprobCount,
    Refused,
    TokenCount,
    make_samplings,
    parse_fields,
    stop_strings,
)
from lmx.schema.messages import Message, to_turn
from lmx.schema.priority import NORMAL, choose_priority
from lmx.schema.skill_fields import (
    AskedSkill,
    SkillFields,
    SkillTool,
    asked_skills,
    check_skill_fields,
)
from lmx.schema.tools import (
    Tool,
    ToolChoice,
    ToolPlan,
    parameters_schema,
    plan_tools,
    to_template,
)

# Documented fields that have no effect, and the values at which they ask for none.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# What a template gets anyway; a variable of that name would replace the conversation.
RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt"})

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
EnableThinking = Annotated[bool, Meta(description="LMX: whether the model reasons first.")]
ThinkingBudget = Annotated[
    int, Meta(ge=0, le=2**63 - 1, description="LMX: most tokens of reasoning.")
]
ReasoningFormat = Annotated[
    Literal["separate", "inline"],
    Meta(description="LMX: reasoning beside the content, or in it between <think> and </think>."),
]
TemplateVariables = Annotated[
    dict[str, Any], Meta(description="LMX: further variables for the chat template.")
]


class ChatRequest(SkillFields, kw_only=True):
    """The body of a chat request. `None` means absent, as explicit nulls occur."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: LogprobCount | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool | SkillTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None

    # Extensions of LMX.
    enable_thinking: EnableThinking | None = None
    thinking_budget: ThinkingBudget | None = None
    reasoning_format: ReasoningFormat | None = None
    chat_template_kwargs: TemplateVariables | None = None

    # Documented by OpenAI and without effect here.
    verbosity: Annotated[Any, Meta(extra_json_schema={"enum": ["medium", None]})] = None
    modalities: Annotated[Any, Meta(extra_json_schema={"enum": [["text"], None]})] = None
    functions: Annotated[Any, Meta(extra_json_schema={"enum": [[], None]})] = None
    function_call: Annotated[Any, Meta(extra_json_schema={"enum": ["none", "auto", None]})] = None
    audio: Refused = None
    prediction: Refused = None
    web_search_options: Refused = None

    @property
    def asked_skills(self) -> list[AskedSkill]:
        """The skills it names, in order, as they are named.

        Raises:
            InvalidRequest: A tool of kind ``skill`` does not say which.
        """
        return asked_skills(self.skills, self.tools)

    @property
    def own_tools(self) -> list[Tool]:
        """The tools that are the client's own."""
        return [tool for tool in self.tools or () if isinstance(tool, Tool)]


@functools.cache
def _decoder() -> "msgspec.json.Decoder[ChatRequest]":
    return msgspec.json.Decoder(ChatRequest)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    return check_chat_request(parse_fields(body, _decoder(), NEUTRAL_VALUES))


def check_chat_request(request: ChatRequest) -> ChatRequest:
    """What one field cannot say alone.

    Raises:
        InvalidRequest: Fields that need each other are not both there.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
    check_skill_fields(request, request.messages, names_skills=bool(request.asked_skills))
    return request


def to_generate(
    request: ChatRequest,
    *,
    default_max_tokens: int,
    default_temperature: float,
    default_priority: int = NORMAL,
) -> Generate:
    """Translate into the worker's terms. The sequence number is the link's to set.

    Of a request that names skills no tools are offered yet; see `with_tools`.

    Raises:
        InvalidRequest: Fields contradict each other.
        UnreadableContent: A message holds something that no text model can read.
    """
    generate = Generate(
        sequence=0,
        prompt=ChatPrompt(
            messages=[to_turn(m, at=i) for i, m in enumerate(request.messages)],
            template_kwargs=_template_kwargs(request),
        ),
        samplings=make_samplings(
            request,
            count=request.n or 1,
            max_tokens=request.max_completion_tokens or request.max_tokens or default_max_tokens,
            default_temperature=default_temperature,
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        ),
        stop=stop_strings(request),
        grammar=choose_grammar(request, request.response_format),
        thinking_budget=request.thinking_budget,
        priority=choose_priority(request.priority, default_priority),
        context_tokens=request.num_ctx,
    )
    return with_tools(generate, request)


def with_tools(generate: Generate, request: ChatRequest) -> Generate:
    """The same with the client's own tools of a request offered, and called if it demands that.

    Raises:
        InvalidRequest: The tools contradict each other, the choice among them, or the grammar.
    """
    plan, grammar = _plan(request), generate.grammar
    if grammar is not None and plan.must_call:
        raise InvalidRequest(
            f"{grammar.param!r} cannot be combined with a 'tool_choice' that demands a call",
            param=grammar.param,
        )
    prompt = msgspec.structs.replace(
        generate.prompt,
        tools=[to_template(tool) for tool in plan.tools],
        must_call=plan.must_call,
        may_call_many=plan.may_call_many,
    )
    return msgspec.structs.replace(generate, prompt=prompt)


def offered_tools(request: ChatRequest) -> dict[str, dict[str, Any]]:
    """The JSON schema of each tool's parameters that the model is shown, by the tool's name.

    As in `to_generate`, there are none while skills are only named.
    """
    return {tool.function.name: parameters_schema(tool) for tool in _plan(request).tools}


def is_reasoning_inline(request: ChatRequest, default: bool) -> bool:  # noqa: FBT001  # the setting
    """Whether reasoning stands inside the content rather than beside it."""
    return default if request.reasoning_format is None else request.reasoning_format == "inline"


def _plan(request: ChatRequest) -> ToolPlan:
    if request.asked_skills:
        return ToolPlan()
    is_parallel = request.parallel_tool_calls is not False
    return plan_tools(request.own_tools, request.tool_choice, is_parallel=is_parallel)


def _template_kwargs(request: ChatRequest) -> dict[str, Any]:
    given = check_template_kwargs(request.chat_template_kwargs)
    named: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        named["reasoning_effort"] = request.reasoning_effort
    if request.reasoning_effort == "none":
        named["enable_thinking"] = False
    if request.enable_thinking is not None:
        if named.get("enable_thinking", request.enable_thinking) != request.enable_thinking:
            raise InvalidRequest(
                "'enable_thinking' contradicts 'reasoning_effort'", param="enable_thinking"
            )
        named["enable_thinking"] = request.enable_thinking
    for name, value in named.items():
        if given.get(name, value) != value:
            raise InvalidRequest(
                f"the template's variable {name!r} is given twice, with different values",
                param=f"chat_template_kwargs.{name}",
            )
    return {**given, **named}


def check_template_kwargs(given: dict[str, Any] | None) -> dict[str, Any]:
    """Variables for the template as the client gave them.

    Raises:
        InvalidRequest: One would replace what the template gets from the request.
    """
    for name in given or {}:
        if name in RESERVED_VARIABLES:
            raise InvalidRequest(
                f"{name!r} is not a variable to set", param=f"chat_template_kwargs.{name}"
            )
    return given or {}
