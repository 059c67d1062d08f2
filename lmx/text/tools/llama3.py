"""Llama 3: the whole answer is a JSON object, with no marker around it.

    {"name": "get_weather", "parameters": {"city": "Paris"}}
    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}
    <|python_tag|>brave_search.call(query="weather in Paris")

From the templates of meta-llama/Llama-3.1-8B-Instruct and later. Without ``<|python_tag|>`` a call
is recognised only where the answer begins, and only with the name of an offered tool: people ask
for JSON too. Models put ``;`` or a line break between parallel calls.
"""

from collections.abc import Collection

from lmx.text.tools.family import Bare, Call, Family, Rule, Tools
from lmx.text.tools.literals import load_calls
from lmx.text.tools.values import calls_from, load_json


def _parse_json(body: str, _tools: Tools) -> list[Call] | None:
    return calls_from(load_json(body))


def _parse_tagged(body: str, tools: Tools) -> list[Call] | None:
    if body.lstrip().startswith("{"):
        return _parse_json(body, tools)
    calls = load_calls(body)
    return calls and [call._replace(name=call.name.removesuffix(".call")) for call in calls]


def _leads(names: Collection[str]) -> tuple[str, ...]:
    starts = ('{"name":"', '{"type":"function","name":"', '{"function":"')
    return tuple(f'{start}{name}"' for start in starts for name in names)


LLAMA3 = Family(
    name="llama3",
    rules=(Rule(opening="<|python_tag|>", parse=_parse_tagged, is_balanced=True),),
    bare=Bare(Rule(opening="", parse=_parse_json, is_balanced=True), _leads),
)
