"""Hermes: JSON between tags.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

From the templates of NousResearch/Hermes-2-Pro and 3, Qwen/Qwen2.5-Instruct and Qwen/Qwen3.
Parallel calls are blocks of their own. Some fine-tunes write Python's quotes, as the examples in
the first Hermes prompts did.
"""

from lmx.text.tools.family import Call, Family, Rule, Tools
from lmx.text.tools.literals import load_literal
from lmx.text.tools.values import BAD, calls_from, load_json


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    value = load_json(body)
    return calls_from(load_literal(body) if value is BAD else value)


HERMES = Family(
    name="hermes",
    rules=(Rule(opening="<tool_call>", ends=("</tool_call>",), parse=_parse),),
)
