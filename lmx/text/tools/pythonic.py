"""Pythonic: a list of Python calls with keyword arguments.

    <|tool_call_start|>[get_weather(city="Paris"), get_time(zone="UTC")]<|tool_call_end|>
    [get_weather(city="Paris")]

The first from the template of LiquidAI/LFM2-1.2B, the second what the templates of
meta-llama/Llama-4-Scout-17B-16E-Instruct and Llama-3.2-1B-Instruct ask for, sometimes between
``<|python_start|>`` and ``<|python_end|>``. Without a marker a call is recognised only where the
answer begins, and only with the name of an offered tool.
"""

from collections.abc import Collection

from lmx.text.tools.family import Bare, Call, Family, Rule, Tools
from lmx.text.tools.literals import load_calls


def _parse(body: str, _tools: Tools) -> list[Call] | None:
    return load_calls(body)


def _leads(names: Collection[str]) -> tuple[str, ...]:
    return tuple(f"[{name}(" for name in names)


PYTHONIC = Family(
    name="pythonic",
    rules=(Rule(opening="<|tool_call_start|>", ends=("<|tool_call_end|>",), parse=_parse),),
    bare=Bare(Rule(opening="", parse=_parse, is_balanced=True), _leads),
    silent=("<|python_start|>", "<|python_end|>"),
)
