"""GLM: a name, then pairs of tags for keys and values.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

From the templates of zai-org/GLM-4.5 and 4.6; GLM-4.7 leaves out the line breaks. Strings stand as
they are, other values as JSON, so the tool's schema decides. LongCat writes the same with prefixed
tags (meituan-longcat/LongCat-Flash-Chat).
"""

import re

from lmx.text.tools.family import Call, Family, Parse, Rule, Tools
from lmx.text.tools.typed import parameter_types, typed_value
from lmx.text.tools.values import make_call


def _parser(prefix: str) -> Parse:
    key_tag, value_tag = f"{prefix}arg_key", f"{prefix}arg_value"
    # A closing tag counts only before the next pair or the end: values may hold one.
    pair = re.compile(
        rf"\s*<{key_tag}>(.*?)</{key_tag}>\s*<{value_tag}>(.*?)</{value_tag}>\s*"
        rf"(?=<{key_tag}>|\Z)",
        re.DOTALL,
    )

    def parse(body: str, tools: Tools) -> list[Call] | None:
        name, tag, rest = body.partition(f"<{key_tag}>")
        name = name.strip()
        pairs = tag + rest
        arguments = {}
        at = 0
        while found := pair.match(pairs, at):
            key = found[1].strip()
            arguments[key] = typed_value(found[2], parameter_types(tools, name, key))
            at = found.end()
        call = make_call(name, arguments)
        return [call] if call is not None and at == len(pairs) else None

    return parse


def _family(name: str, prefix: str) -> Family:
    rule = Rule(
        opening=f"<{prefix}tool_call>",
        ends=(f"</{prefix}tool_call>",),
        quotes=((f"<{prefix}arg_value>", f"</{prefix}arg_value>"),),
        parse=_parser(prefix),
        is_whole_without_end=False,
        markup=re.compile(rf"</?{prefix}arg_(?:key|value)>"),
    )
    return Family(name=name, rules=(rule,))


GLM = _family("glm", "")
LONGCAT = _family("longcat", "longcat_")
