"""Kimi K2: special tokens around an id and JSON, all inside one section.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
    <|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>

(without the line break) from the template of moonshotai/Kimi-K2-Instruct. The id is
``functions.``, the tool's name, and the call's number in the conversation.
"""

import re

from lmx.text.tools.family import Call, Family, Rule, Section, Tools
from lmx.text.tools.values import make_call

_ARGUMENT = "<|tool_call_argument_begin|>"


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    head, _, arguments = body.partition(_ARGUMENT)
    if not arguments.strip():
        return None
    name, colon, number = head.strip().removeprefix("functions.").rpartition(":")
    call = make_call(name if colon and number.isdecimal() else name + colon + number, arguments)
    return None if call is None else [call]


KIMI = Family(
    name="kimi",
    rules=(
        Rule(
            opening="<|tool_call_begin|>",
            ends=("<|tool_call_end|>",),
            parse=_parse,
            markup=re.compile(re.escape(_ARGUMENT)),
        ),
    ),
    section=Section("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", is_optional=True),
)
