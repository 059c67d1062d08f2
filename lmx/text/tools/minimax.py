"""MiniMax-M2: invocations with named parameters, all inside one section.

    <minimax:tool_call>
    <invoke name="get_weather">
    <parameter name="city">Paris</parameter>
    </invoke>
    </minimax:tool_call>

From the template of MiniMaxAI/MiniMax-M2. Values are not escaped and their type is the schema's.
DeepSeek-V3.2 writes the same with ``｜DSML｜`` after each ``<`` and ``</`` and says of each
parameter whether it is a string (deepseek-ai/DeepSeek-V3.2, encoding/encoding_dsv32.py).
"""

# ruff: noqa: RUF001, RUF002 - DeepSeek's markers are written with full-width bars

import re

from lmx.text.tools.family import Call, Family, Parse, Rule, Section, Tools
from lmx.text.tools.typed import parameter_types, typed_value
from lmx.text.tools.values import make_call

_STATED_TYPE = {"true": frozenset({"string"}), "false": frozenset[str]()}


def _parser(prefix: str) -> Parse:
    tag = f"{prefix}parameter"
    head = re.compile(r'\s*"?([^">\s]+)"?\s*>')
    # A closing tag counts only before the next parameter or the end: values may hold one.
    parameter = re.compile(
        rf'\s*<{tag} name="?([^">]+)"?(?:\s+string="(true|false)")?\s*>(.*?)</{tag}>\s*'
        rf"(?=<{tag} name=|\Z)",
        re.DOTALL,
    )

    def parse(body: str, tools: Tools) -> list[Call] | None:
        named = head.match(body)
        if named is None:
            return None
        name = named[1]
        arguments = {}
        at = named.end()
        while found := parameter.match(body, at):
            key, stated, value = found.groups()
            types = _STATED_TYPE.get(stated)
            if types is None:
                types = parameter_types(tools, name, key)
            arguments[key] = typed_value(value.removeprefix("\n").removesuffix("\n"), types)
            at = found.end()
        call = make_call(name, arguments)
        return [call] if call is not None and not body[at:].strip() else None

    return parse


def _family(name: str, prefix: str, section: str) -> Family:
    rule = Rule(
        opening=f"<{prefix}invoke name=",
        ends=(f"</{prefix}invoke>",),
        quotes=((f"<{prefix}parameter name=", f"</{prefix}parameter>"),),
        parse=_parser(prefix),
        is_whole_without_end=False,
        markup=re.compile(rf'</?{prefix}(?:invoke|parameter)(?: name="([^"<>]*)"[^<>]*)?>'),
    )
    return Family(name=name, rules=(rule,), section=Section(f"<{section}>", f"</{section}>"))


MINIMAX = _family("minimax", "", "minimax:tool_call")
DEEPSEEK_V32 = _family("deepseek_v32", "｜DSML｜", "｜DSML｜function_calls")
