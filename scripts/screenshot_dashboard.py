"""Pictures of the dashboard for the documentation: a daemon with fake models under some load.

    python scripts/screenshot_dashboard.py

Writes ``docs/dashboard.png`` and beside it the same in the dark, on a phone, and the skills. Needs
Chromium. The names are of real models and the answers are nonsense: nothing is downloaded but from
a hub on this machine.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import trio

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.browser import Page, open_browser
from tests.daemon_process import REPOSITORY, Daemon, open_daemon
from tests.hub_server import mlx_files, open_hub

DOCS = REPOSITORY / "docs"
LIMIT_S = 300.0
DESKTOP = (1440, 1290)
SKILLS_VIEW = (1100, 790)
SIZE_LIMIT_BYTES = 320_000
# How long the charts are given to show something.
LOAD_S = 75.0
LARGE = (
    "fake:Qwen3-8B-4bit?step_ms=22&prefill_ms=120&chunk=64&tokens=160&weight_bytes=4600000000"
    "&max_sequences=3&context=40960"
)
SMALL = (
    "fake:Llama-3.2-3B-Instruct-4bit?step_ms=9&prefill_ms=40&chunk=64&tokens=220"
    "&weight_bytes=1800000000&context=131072&fail=asked"
)
COMING = "fake:gemma-3-12b-it-4bit?load_ms=60000&weight_bytes=7300000000"
ON_DISK = ("mlx-community/Mistral-7B-Instruct-v0.3-4bit", "mlx-community/Phi-4-mini-instruct-8bit")
PULLED = "mlx-community/SmolLM2-135M-Instruct-4bit"
PULLED_BYTES = 76_000_000
CALL = """<tool_call>
{"name": "calculator", "arguments": {"expression": "2350 * 17 / 100"}}
</tool_call>"""
QUESTION = "What is 17 % of 2,350?"
TALKER = (
    "fake:SmolLM2-360M-Instruct?step_ms=6&weight_bytes=390000000"
    f"&text={quote(CALL)}"
    f"&then={quote('17 % of 2,350 is 399.5.')}"
)
LIGHTS = """
schema: opta.skills.manifest/v1
name: lights
description: Switches the lights of a room.
kind: http
http: {url: "http://127.0.0.1:8123/lights"}
permissions: {network: true, env: [LIGHTS_TOKEN]}
requires_approval: true
risk_tags: [changes_things]
"""
BROKEN = "schema: opta.skills.manifest/v1\nname: weather\nkind: htpp\n"


async def main() -> None:
    """Load, look, save."""
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(LIMIT_S):
        await show(Path(folder))


async def show(home: Path) -> None:
    """A daemon in a home of its own, with a browser before it."""
    make_models(home)
    make_skills(home)
    settings = {
        "HOME": str(home / "user"),
        "HF_HOME": str(home / "hub"),
        "LMX_MEMORY__BUDGET_GB": "18",
    }
    with open_hub() as hub:
        hub.add(PULLED, mlx_files(PULLED_BYTES))
        hub.faults.hold_after = PULLED_BYTES * 2 // 3
        await show_daemon(home, {**settings, **hub.environment})


async def show_daemon(home: Path, settings: dict[str, str]) -> None:
    """All pictures."""
    async with (
        open_daemon(home, LARGE, SMALL, TALKER, settings=settings) as daemon,
        open_browser(home / "profile") as browser,
        browser.open_page() as page,
        trio.open_nursery() as load,
    ):
        await daemon.wait_ready()
        await page.call("Emulation.setScrollbarsHidden", hidden=True)
        await page.resize(*DESKTOP)
        await page.visit(f"{daemon.url}/admin/ui")
        await end_a_worker(daemon)
        for number in range(5):
            load.start_soon(talk, daemon, number)
        await trio.sleep(LOAD_S)
        await chat(page)
        await page.fill("#load-name", COMING)
        await page.press_enter()
        await page.fill("#pull-name", PULLED)
        await page.press_enter()
        await page.evaluate("document.activeElement.blur()")
        await save(page)
        await save_skills(page)
        load.cancel_scope.cancel()


def make_models(home: Path) -> None:
    """Folders that look like models to the inventory."""
    for name in ON_DISK:
        folder = home / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        with (folder / "model.safetensors").open("wb") as weights:
            weights.truncate(4_000_000_000)  # a hole: it takes no space


def make_skills(home: Path) -> None:
    """One more skill, and one that is broken."""
    folder = home / "skills"
    folder.mkdir()
    (folder / "lights.yaml").write_text(LIGHTS)
    (folder / "weather.yaml").write_text(BROKEN)


async def ask(daemon: Daemon, path: str, body: dict[str, Any]) -> None:
    """One request, whatever comes of it."""
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=120, trust_env=False) as client:
        await client.post(path, json=body)


async def end_a_worker(daemon: Daemon) -> None:
    """Something for the list of exits."""
    messages = [{"role": "user", "content": "fail:abort:3"}]
    body = {"model": "Llama-3.2-3B-Instruct-4bit", "messages": messages}
    await ask(daemon, "/v1/chat/completions", body)


async def talk(daemon: Daemon, number: int) -> None:
    """A client that asks, reads, rests for a moment and asks again."""
    models = ("Qwen3-8B-4bit", "Llama-3.2-3B-Instruct-4bit")
    turn = number
    while True:
        content = f"client {number}, question {turn} " * (3 + 5 * (turn % 4))
        body = {"model": models[turn % 3 // 2], "messages": [{"role": "user", "content": content}]}
        await ask(daemon, "/v1/chat/completions", body)
        await trio.sleep(0.4 * (1 + (turn * 7) % 9))
        turn += 1


async def chat(page: Page) -> None:
    """A conversation in the box, with a skill."""
    await page.click("#chat-skills summary")
    await page.click("#chat-skill-list input[value='builtin/calculator']")
    name = "SmolLM2-360M-Instruct"
    choose = f"((select) => {{ select.value = '{name}'; return select.value; }})"
    await page.wait_for(f"{choose}(document.querySelector('#chat-model')) === '{name}'")
    await page.fill("#chat-text", QUESTION)
    await page.press_enter()
    await page.wait_for("document.querySelector('#chat-usage').innerText.includes('stop')")
    await page.click("#chat-log .call summary")


async def save(page: Page) -> None:
    """The pictures: light, dark, and on a phone."""
    await page.click("#log-panel summary")
    await trio.sleep(2)
    views = (
        ("dashboard", "light", partial(page.resize, *DESKTOP)),
        ("dashboard-dark", "dark", partial(page.resize, *DESKTOP)),
        ("dashboard-phone", "light", partial(page.resize, 390, 1250, is_phone=True)),
    )
    for name, scheme, resize in views:
        await page.prefer(prefers_color_scheme=scheme)
        await resize()
        await trio.sleep(2.5)
        await take(page, name)


async def save_skills(page: Page) -> None:
    """The panel of skills, with one that was tried."""
    await page.resize(*SKILLS_VIEW)
    await page.click("#skills-panel summary")
    item = "#skills li[data-key='builtin/calculator@1.0.0']"
    await page.click(f"{item} summary")
    await page.evaluate(
        f'document.querySelector("{item} textarea").value = '
        "JSON.stringify({ expression: 'sqrt(2) * 10' })"
    )
    await page.click(f"{item} button[type=submit]")
    await page.wait_for(f'!document.querySelector("{item} .output").hidden')
    await page.evaluate("document.querySelector('#skills-card').scrollIntoView({ block: 'end' })")
    await take(page, "dashboard-skills")


async def take(page: Page, name: str) -> None:
    """One picture."""
    picture = await page.screenshot()
    if len(picture) > SIZE_LIMIT_BYTES:
        raise SystemExit(f"{name}.png has {len(picture)} bytes, over {SIZE_LIMIT_BYTES}")
    (DOCS / f"{name}.png").write_bytes(picture)
    print(f"docs/{name}.png  {len(picture)} bytes")


if __name__ == "__main__":
    trio.run(main)
