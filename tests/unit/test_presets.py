"""Presets fill in what a request leaves open; aliases say which model a name means."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from lmx.config import Settings
from lmx.config.routing import PresetSettings, RoutingSettings
from lmx.daemon.naming import Names
from lmx.daemon.presets import Presets
from lmx.errors import ConfigError, ModelNotFound
from lmx.schema.chat_request import ChatRequest, parse_chat_request
from lmx.schema.completion_request import parse_completion_request
from lmx.schema.messages import to_turn
from lmx.schema.presets import describe_preset, parse_preset
from tests.lifecycle import House

CODER = """
name: coder
description: For code.
model: org/Coder-7B
parameters: {temperature: 0.2, max_tokens: 300, stop: [END], enable_thinking: false}
system_prompt: Write code.
routing_alias: code
routing_aliases: [program, code]
"""


def chat(model: str, **fields: Any) -> ChatRequest:
    """A request of one message."""
    messages = fields.pop("messages", [{"role": "user", "content": "hi"}])
    return parse_chat_request(json.dumps({"model": model, "messages": messages, **fields}).encode())


async def shelf(folder: Path, **files: str) -> Presets:
    """Presets of these files."""
    for stem, text in files.items():
        (folder / f"{stem}.yaml").write_text(text)
    presets = Presets(Settings(home=folder, presets=PresetSettings(directory=str(folder))))
    await presets.reload()
    return presets


@pytest.mark.parametrize("name", ["preset:coder", "code", "program"])
async def test_a_preset_fills_what_is_left_open(tmp_path: Path, name: str) -> None:
    """Its model, its parameters and its system prompt, by any of its names."""
    presets = await shelf(tmp_path, a=CODER)
    filled = presets.fill(chat(name))
    assert ("org/Coder-7B", 0.2, 300, ["END"], False) == (
        filled.model,
        filled.temperature,
        filled.max_tokens,
        filled.stop,
        filled.enable_thinking,
    )
    assert [("system", "Write code."), ("user", "hi")] == [
        (turn["role"], turn["content"])
        for turn in (to_turn(message, at=at) for at, message in enumerate(filled.messages))
    ]


async def test_what_a_request_says_counts_more(tmp_path: Path) -> None:
    """Its fields, either spelling of the limit, and its own system message."""
    presets = await shelf(tmp_path, a=CODER)
    messages = [{"role": "developer", "content": "Mine."}, {"role": "user", "content": "hi"}]
    filled = presets.fill(chat("code", temperature=0, max_completion_tokens=5, messages=messages))
    assert (0, None, 5, 2) == (
        filled.temperature,
        filled.max_tokens,
        filled.max_completion_tokens,
        len(filled.messages),
    )


async def test_other_names_are_left_alone(tmp_path: Path) -> None:
    """No request without a preset's name changes."""
    presets = await shelf(tmp_path, a=CODER)
    for name in ("coder", "preset:other", "org/Coder-7B", ""):
        asked = chat(name)
        assert asked is presets.fill(asked)


async def test_text_completions_take_what_they_know(tmp_path: Path) -> None:
    """Without messages there is no system prompt and no thinking."""
    presets = await shelf(tmp_path, a=CODER)
    filled = presets.fill(parse_completion_request(b'{"model": "code", "prompt": "x"}'))
    assert ("org/Coder-7B", 0.2, 300) == (filled.model, filled.temperature, filled.max_tokens)


def test_profiles_are_system_prompts_by_name() -> None:
    """The default one stands in the place of the preset's own."""
    text = b"{model: m, system_prompt: a, prompt_profiles: {x: b}, default_prompt_profile: x}"
    assert "b" == parse_preset(text, stem="p").system_prompt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "model"),
        ("- x", "object"),
        ("{model: m, modle: x}", "modle"),
        ("{model: m, name: a/b}", "name"),
        ("{model: m, parameters: {temprature: 1}}", "parameters.temprature"),
        ("{model: m, parameters: {temperature: hot}}", "parameters.temperature"),
        ("{model: m, parameters: {messages: []}}", "parameters.messages"),
        ("{model: m, parameters: {top_logprobs: 3}}", "parameters.top_logprobs"),
        ("{model: m, default_prompt_profile: x}", "default_prompt_profile"),
        ("{model: [", "no YAML"),
    ],
)
def test_a_file_that_is_none_says_why(text: str, said: str) -> None:
    """The key at fault stands in the message."""
    with pytest.raises(ConfigError, match=said):
        parse_preset(text.encode(), stem="p")


async def test_a_broken_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """It is listed with the reason, and so is the second of two of one name."""
    (tmp_path / "notes.txt").write_text("no preset")
    (tmp_path / "z.yaml").mkdir()
    presets = await shelf(tmp_path, a=CODER, b=CODER, c="model: m", d="{model: ")
    assert ["c", "coder"] == [preset.name for preset in presets.shelved.presets]
    broken = {Path(one.path).stem for one in presets.shelved.broken}
    assert {"b", "d", "z"} == broken


async def test_a_changed_file_counts_after_a_reload(tmp_path: Path) -> None:
    """And not before."""
    presets = await shelf(tmp_path, a=CODER)
    (tmp_path / "a.yaml").write_text("{name: coder, model: other}")
    assert "org/Coder-7B" == presets.fill(chat("preset:coder")).model
    await presets.reload()
    assert "other" == presets.fill(chat("preset:coder")).model
    (tmp_path / "a.yaml").unlink()
    assert [] == list((await presets.reload()).presets)


async def test_a_folder_that_is_not_there_has_no_presets(tmp_path: Path) -> None:
    """Nobody has to make one."""
    missing = PresetSettings(directory=str(tmp_path / "none"))
    assert [] == list((await Presets(Settings(home=tmp_path, presets=missing)).reload()).presets)


async def test_presets_can_be_switched_off(tmp_path: Path) -> None:
    """Then no file is looked at."""
    (tmp_path / "a.yaml").write_text(CODER)
    off = PresetSettings(enabled=False, directory=str(tmp_path))
    presets = Presets(Settings(home=tmp_path, presets=off))
    assert [] == list((await presets.reload()).presets)


def test_what_clients_see_of_a_preset() -> None:
    """Both spellings of its alias."""
    shown = describe_preset(parse_preset(CODER.encode(), stem="a"))
    assert ("coder", "code", ["code", "program"]) == (
        shown.name,
        shown.routing_alias,
        shown.routing_aliases,
    )


async def test_presets_load_their_models(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    """Those that say so, with what they say of performance, and never a name that is none."""
    house = House({"m": 1})
    auto = "{model: m, auto_load: true, performance: {x: 1}}"
    bad = "{model: 'fake:?', auto_load: true}"
    presets = await shelf(tmp_path, a=auto, b="{model: other}", c=bad)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.loader.run)
        presets.load_into(house.loader)
        assert [("m", {"x": 1})] == [
            (model.id, model.options.performance) for model in house.loader.models.values()
        ]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best", ("a", "b")),
        ("one", ("a",)),
        ("a", ("a",)),
        ("", ("d", "")),
        ("auto", ("d", "auto")),
        ("current", ("current",)),
        ("code", ("code", "d", "auto")),
    ],
)
def test_names_stand_for_models(name: str, expected: tuple[str, ...]) -> None:
    """Aliases, roles and no name at all."""
    routing = RoutingSettings(aliases={"best": ("a", "b"), "one": "a"}, default_model="d")
    assert expected == Names(lambda: routing).candidates(name)


async def test_a_loaded_model_answers_for_an_alias(autojump_clock: trio.abc.Clock) -> None:
    """Of several the one that is loaded, else the first that can be; a default is loaded."""
    house = House({"a": 1, "b": 1, "d": 1}, on_disk=["a", "b", "d"])
    routing = RoutingSettings(aliases={"best": ("gone", "a", "b")}, default_model="d")
    house.loader.names = Names(lambda: routing)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.loader.run)
        house.want("b")
        assert "b" == (await house.loader.wait_routable("b", wait_s=9)).id
        assert "b" == (await house.loader.wait_routable("best", wait_s=9)).id
        assert "d" == (await house.loader.wait_routable("", wait_s=9)).id
        assert "d" == (await house.loader.wait_routable("reasoning", wait_s=9)).id
        with pytest.raises(ModelNotFound):
            await house.loader.wait_routable("preset:none", wait_s=9)
        nursery.cancel_scope.cancel()
