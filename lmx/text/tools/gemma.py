"""Gemma: calls with strings between markers, or Python in a fence.

    <start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>
    <|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>
    ```tool_code
    get_weather(city="Paris")
    ```

The first from the template of google/functiongemma-270m-it, the second Gemma 4's as mlx-lm 0.32
knows it, the third what Google's guide to Gemma 3 prompts for, whose own template has no tools.
Keys are bare; nothing is escaped between string markers.
"""

import re

from lmx.text.tools.family import Call, Family, Parse, Rule, Tools
from lmx.text.tools.literals import load_calls, load_literal
from lmx.text.tools.values import make_call

_CALL = re.compile(r"\s*call:([^\s{]+)\s*(\{.*\})\s*", re.DOTALL)


def _parser(quote: str) -> Parse:
    def parse(body: str, _tools: Tools) -> list[Call] | None:
        found = _CALL.fullmatch(body)
        if found is None:
            return None
        call = make_call(found[1], load_literal(found[2], quote=quote))
        return None if call is None else [call]

    return parse


def _parse_code(body: str, _tools: Tools) -> list[Call] | None:
    return load_calls(body)


def _rule(opening: str, end: str, quote: str) -> Rule:
    return Rule(
        opening=opening,
        ends=(end,),
        quotes=((quote, quote),),
        parse=_parser(quote),
        markup=re.compile(re.escape(quote)),
    )


GEMMA = Family(
    name="gemma",
    rules=(
        _rule("<start_function_call>", "<end_function_call>", "<escape>"),
        Rule(opening="```tool_code", ends=("```",), parse=_parse_code),
    ),
)
GEMMA4 = Family(name="gemma4", rules=(_rule("<|tool_call>", "<tool_call|>", '<|"|>'),))
