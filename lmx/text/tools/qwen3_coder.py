"""Qwen3-Coder: XML-like tags around values that are not escaped.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

From the template of Qwen/Qwen3-Coder-30B-A3B-Instruct: strings stand as they are, other values as
JSON, one line break on either side. So the tool's schema decides what a value is. Seed-OSS writes
the same inside ``<seed:tool_call>`` (ByteDance-Seed/Seed-OSS-36B-Instruct), without line breaks.
"""

import re

from lmx.text.tools.family import Call, Family, Rule, Tools
from lmx.text.tools.typed import parameter_types, typed_value
from lmx.text.tools.values import make_call

_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)>(.*)</function>\s*", re.DOTALL)
# A closing tag counts only before the next parameter or the end: values may hold one.
_PARAMETER = re.compile(
    r"\s*<parameter=([^<>\s]+)>(.*?)</parameter>\s*(?=<parameter=|\Z)", re.DOTALL
)
_MARKUP = re.compile(r"</?(?:function|parameter)(?:=([^<>\s]+))?>")


def _parse(body: str, tools: Tools) -> list[Call] | None:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        return None
    name, inner = function.groups()
    arguments = {}
    at = 0
    while found := _PARAMETER.match(inner, at):
        key, value = found.groups()
        value = value.removeprefix("\n").removesuffix("\n")
        arguments[key] = typed_value(value, parameter_types(tools, name, key))
        at = found.end()
    call = make_call(name, arguments)
    return [call] if call is not None and not inner[at:].strip() else None


def _rule(opening: str, end: str) -> Rule:
    return Rule(
        opening=opening,
        ends=(end,),
        quotes=(("<parameter=", "</parameter>"),),
        parse=_parse,
        markup=_MARKUP,
    )


QWEN3_CODER = Family(name="qwen3_coder", rules=(_rule("<tool_call>", "</tool_call>"),))
SEED = Family(name="seed", rules=(_rule("<seed:tool_call>", "</seed:tool_call>"),))
