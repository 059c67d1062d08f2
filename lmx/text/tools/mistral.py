"""Mistral: a marker and JSON, with nothing after it but the end of the answer.

    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}
    [TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{"city": "Paris"}

From the templates of mistralai/Mistral-7B-Instruct-v0.3 (a list), Devstral-Small-2507 (name and
arguments, the marker again before each call) and Mistral-Small-3.2 (with an id). A block ends
where its bracket closes.
"""

import re

from lmx.text.tools.family import STRINGS, Call, Family, Rule, Tools
from lmx.text.tools.values import calls_from, load_json, make_call


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    if body.lstrip().startswith("["):
        return calls_from(load_json(body))
    head, brace, rest = body.partition("{")
    name = head.replace("[ARGS]", "").partition("[CALL_ID]")[0].strip()
    call = make_call(name, load_json(brace + rest))
    return None if call is None else [call]


MISTRAL = Family(
    name="mistral",
    rules=(
        Rule(
            opening="[TOOL_CALLS]",
            # The two markers hold brackets, which must not count as such.
            quotes=(*STRINGS, ("[ARGS", "]"), ("[CALL_ID", "]")),
            is_balanced=True,
            parse=_parse,
            markup=re.compile(r"\[(?:ARGS|CALL_ID)\]"),
        ),
    ),
)
