"""Command R7B and Command A: a plan, then a list of actions or a response.

    <|START_THINKING|>I will look it up.<|END_THINKING|><|START_ACTION|>[
        {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}
    ]<|END_ACTION|>
    <|START_RESPONSE|>It rains in Paris.<|END_RESPONSE|>

From the templates of CohereLabs/c4ai-command-r7b-12-2024 and c4ai-command-a-03-2025; newer ones
write ``<|START_TEXT|>`` around the answer.
"""

from lmx.text.tools.family import Call, Family, Rule, Tools
from lmx.text.tools.values import calls_from, load_json


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    return calls_from(load_json(body))


COMMAND_R = Family(
    name="command_r",
    rules=(Rule(opening="<|START_ACTION|>", ends=("<|END_ACTION|>",), parse=_parse),),
    silent=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
