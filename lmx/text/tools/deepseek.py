"""DeepSeek V3 and R1, and V3.1: special tokens around a name and JSON, all inside one section.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}
    <｜tool▁call▁end｜><｜tool▁calls▁end｜>

From the templates of deepseek-ai/DeepSeek-R1 and V3-0324 (first form) and of DeepSeek-V3.1 (second
form, without the line break). Bars and underscores are the full-width U+FF5C and U+2581.
"""

# ruff: noqa: RUF001, RUF002 - DeepSeek's markers are written with full-width bars

import re

from lmx.text.tools.family import Call, Family, Rule, Section, Tools
from lmx.text.tools.values import make_call

_SEPARATOR = "<｜tool▁sep｜>"


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    name, _, arguments = body.partition(_SEPARATOR)
    if name.strip() == "function":
        name, _, fenced = arguments.partition("```")
        arguments = fenced.strip().removeprefix("json").removesuffix("```")
    if not arguments.strip():
        return None
    call = make_call(name.strip(), arguments)
    return None if call is None else [call]


DEEPSEEK = Family(
    name="deepseek",
    rules=(
        Rule(
            opening="<｜tool▁call▁begin｜>",
            ends=("<｜tool▁call▁end｜>",),
            parse=_parse,
            markup=re.compile(re.escape(_SEPARATOR)),
        ),
    ),
    section=Section("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", is_optional=True),
)
