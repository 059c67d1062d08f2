"""Downloads, skills and presets on the dashboard, in a real browser before a real daemon."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import trio

from tests.browser import CHROMIUM, Page, open_browser
from tests.daemon_process import Daemon, open_daemon
from tests.http.shared import shared_daemon
from tests.http.test_dashboard_page import KEY, LIVE, shows
from tests.hub_server import LoopbackHub, mlx_files, open_hub
from tests.skill_bench import call

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

LIMIT_S = 55
SIZE = 400_000
DELETE = """
schema: opta.skills.manifest/v1
name: delete
description: Deletes <b>everything</b>.
kind: prompt
template: gone
requires_approval: true
risk_tags: [destructive]
permissions: {network: true}
"""
WAIT = """
schema: opta.skills.manifest/v1
name: wait
kind: command
command: [sleep, "30"]
"""
PRESET = "model: adds\nsystem_prompt: You add.\n"
ANSWERS = {
    "adds": (f"So. {call('add', a=2, b=3)}", "It is 5."),
    "dares": (call("delete"), "Gone."),
}
# What the page sends to the chat, kept for the test.
KEEP_BODIES = """
((ask) => {
  window.bodies = [];
  window.fetch = (path, options) => {
    if (path === "/v1/chat/completions") window.bodies.push(JSON.parse(options.body));
    return ask(path, options);
  };
})(window.fetch)
"""
RELOAD = "fetch('/admin/config/reload', {method: 'POST'}).then((reply) => reply.status)"


class House(NamedTuple):
    """A daemon with its home, and the hub it knows."""

    daemon: Daemon
    home: Path
    hub: LoopbackHub


def model_of(name: str) -> str:
    """The model that gives an answer."""
    text, then = map(quote, ANSWERS[name])
    return f"fake:{name}?text={text}&then={then}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """With skills beside LMX's own, of which one is broken, and a preset."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("skills", "presets"):
        (home / folder).mkdir()
    (home / "skills" / "delete.yaml").write_text(DELETE)
    (home / "skills" / "wait.yaml").write_text(WAIT)
    (home / "skills" / "bad.yaml").write_text("schema: opta.skills.manifest/v1\nname: bad\n")
    (home / "presets" / "adder.yaml").write_text(PRESET)
    (home / "config.yaml").write_text("{}\n")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hf")}
    with open_hub() as hub:
        models = [model_of(name) for name in ANSWERS]
        with shared_daemon(home, *models, settings={**own, **hub.environment}) as daemon:
            yield House(daemon, home, hub)


@asynccontextmanager
async def open_dashboard(house: House, profile: Path) -> AsyncIterator[Page]:
    """The page, listening to the daemon's events."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_browser(profile) as browser,
            browser.open_page(f"{house.daemon.url}/admin/ui") as page,
        ):
            await page.wait_for(LIVE)
            yield page


async def choose(page: Page, model: str) -> None:
    """Pick who answers in the chat, once it can be picked."""
    pick = f"((select) => {{ select.value = {model!r}; return select.value; }})"
    await page.wait_for(f"{pick}(document.querySelector('#chat-model')) === {model!r}")


async def offer(page: Page, skill: str) -> None:
    """Tick a skill in the chat box."""
    if not await page.evaluate("document.querySelector('#chat-skills').open"):
        await page.click("#chat-skills summary")
    await page.click(f"#chat-skill-list input[value='{skill}']")


async def say(page: Page, text: str) -> None:
    """Send a message."""
    await page.fill("#chat-text", text)
    await page.click("#chat-send")


async def pull(page: Page, name: str) -> None:
    """Ask for a download."""
    await page.fill("#pull-name", name)
    await page.press_enter()


async def configure(house: House, page: Page, **downloads: Any) -> None:
    """Give the daemon other settings of downloads."""
    config = trio.Path(house.home / "config.yaml")
    await config.write_text(json.dumps({"downloads": downloads}))
    assert 200 == await page.evaluate(RELOAD)


async def test_a_model_is_pulled(house: House, tmp_path: Path) -> None:
    """Size, bar and bytes as they come, also after a reload; cancelled, taken up again, there."""
    house.hub.add("org/big", mlx_files(SIZE))
    house.hub.faults.hold_after = SIZE // 2
    async with open_dashboard(house, tmp_path) as page:
        await page.wait_for("!document.querySelector('#pull-form').hidden")
        await pull(page, "org/big")
        await page.wait_for(shows("#pulls", "org/big: downloading"))
        await page.wait_for(shows("#pulls", "of 400 kB"))
        await page.call("Page.reload")
        await page.wait_for(LIVE)
        await page.wait_for("document.querySelector('#pulls progress')?.value > 25")
        await page.click("#pulls button")
        await page.wait_for(shows("#pulls", "org/big: cancelled"))
        house.hub.faults.hold_after = None
        house.hub.may_go.set()
        await pull(page, "org/big")
        await page.wait_for(shows("#pulls", "org/big: completed, 400 kB"))
        assert 1 == await page.evaluate("document.querySelectorAll('#pulls li').length")
        await page.wait_for(shows("#disk", "org/big"))
        assert [] == page.faults


async def test_a_refused_download_says_why(house: House, tmp_path: Path) -> None:
    """Not there, no room, and not allowed: in the server's words."""
    house.hub.add("org/fine", mlx_files(SIZE))
    async with open_dashboard(house, tmp_path) as page:
        await page.wait_for("!document.querySelector('#pull-form').hidden")
        await pull(page, "org/none")
        await page.wait_for(shows("#pulls", "(404 not_found)"))
        await configure(house, page, keep_free_gb=100_000)
        await pull(page, "org/fine")
        await page.wait_for(shows("#pulls", "(507 storage-full)"))
        await configure(house, page, enabled=False)
        await pull(page, "org/fine")
        await page.wait_for(shows("#pulls", "(403 downloads_disabled)"))
        await configure(house, page)
        assert 2 == await page.evaluate("document.querySelectorAll('#pulls li').length")


async def test_skills_are_listed_and_tried(house: House, tmp_path: Path) -> None:
    """What they are and may do; a form runs one, asks where it must, and says what was wrong."""
    async with open_dashboard(house, tmp_path) as page:
        await page.wait_for("!document.querySelector('#skills-card').hidden")
        assert "/v1/skills" not in " ".join(page.addresses)
        await page.click("#skills-panel summary")
        await page.wait_for(shows("#skills", "Deletes <b>everything</b>."))
        await page.wait_for(shows("#skills-broken", "bad.yaml"))
        assert "kind" in await page.text("#skills-broken .reason")
        item = "#skills li[data-key='builtin/add@1.0.0']"
        assert "needs approval" not in await page.text(item)
        await page.click(f"{item} summary")
        assert "entrypoint" in await page.text(item)
        given = f'document.querySelector("{item} textarea").value'
        assert {"a": 0, "b": 0} == json.loads(await page.evaluate(given))
        await page.evaluate(given + ' = \'{"a": 2, "b": 40}\'')
        await page.click(f"{item} button[type=submit]")
        await page.wait_for(shows(f"{item} [role=status]", "ok, "))
        await page.wait_for(shows(f"{item} .output", "42"))
        await page.wait_for(shows("#skill-runs", "builtin/add@1.0.0"))
        await page.wait_for(shows("#skill-runs [data-state=ok]", "ok"))
        await page.evaluate(given + " = '{'")
        await page.click(f"{item} button[type=submit]")
        await page.wait_for(shows(f"{item} [role=status]", "no JSON"))
        await page.evaluate(given + " = '[]'")
        await page.click(f"{item} button[type=submit]")
        await page.wait_for(shows(item, "(400 "))
        assert ["400"] == [fault.split()[1] for fault in page.faults]


async def test_a_skill_is_approved_and_run(house: House, tmp_path: Path) -> None:
    """It does not run before somebody has pressed the second button."""
    async with open_dashboard(house, tmp_path) as page:
        await page.wait_for("!document.querySelector('#skills-card').hidden")
        await page.click("#skills-panel summary")
        item = "#skills li[data-key='local/delete@1.0.0']"
        await page.click(f"{item} summary")
        text = await page.text(item)
        for expected in ("needs approval", "prompt", "may use network", "risks: destructive"):
            assert expected in text
        allow = f'document.querySelector("{item} .line button:nth-child(2)")'
        assert await page.evaluate(f"{allow}.hidden")
        await page.click(f"{item} button[type=submit]")
        await page.wait_for(f"!{allow}.hidden")
        assert "gone" not in await page.text(item)
        await page.evaluate(f"{allow}.click()")
        await page.wait_for(shows(f"{item} .output", "gone"))
        assert await page.evaluate(f"{allow}.hidden")
        assert [] == page.faults


async def test_a_run_is_stopped(house: House, tmp_path: Path) -> None:
    """A press hangs up, and the skill's process ends."""
    async with open_dashboard(house, tmp_path) as page:
        await page.wait_for("!document.querySelector('#skills-card').hidden")
        await page.click("#skills-panel summary")
        item = "#skills li[data-key='local/wait@1.0.0']"
        await page.click(f"{item} button[type=submit]")
        await page.wait_for(shows("#skill-runs", "running local/wait@1.0.0"))
        await page.click(f"{item} .line button:nth-child(3)")
        await page.wait_for(shows("#skill-runs", "cancelled local/wait@1.0.0"))
        state = f'document.querySelector("{item} [role=status]").textContent'
        assert "stopped by you" == await page.evaluate(state)
        assert [] == page.faults


async def test_a_key_is_asked_for_when_skills_are(tmp_path: Path) -> None:
    """Not before: with a key for answers alone, the rest of the page needs none."""
    own = {"HOME": str(tmp_path / "user"), "LMX_SECURITY__INFERENCE_API_KEY": KEY}
    is_asked = "document.querySelector('#key-dialog').open"
    with trio.fail_after(LIMIT_S):
        async with (
            open_daemon(tmp_path / "home", "fake:x", settings=own) as daemon,
            open_browser(tmp_path / "profile") as browser,
            browser.open_page(daemon.url) as page,
        ):
            await page.wait_for(LIVE)
            await page.wait_for("!document.querySelector('#skills-card').hidden")
            await page.wait_for(shows("#loaded", "x"))
            assert not await page.evaluate(is_asked)
            await page.click("#skills-panel summary")
            await page.wait_for(is_asked)
            await page.fill("#key-input", KEY)
            await page.press_enter()
            await page.wait_for(shows("#skills", "Adds two numbers."))
            assert await page.evaluate("document.querySelector('#skills-error').hidden")
            assert all(KEY not in address for address in page.addresses)


async def test_a_model_calls_skills_in_the_chat(house: House, tmp_path: Path) -> None:
    """Text, call with its output, text; the next question brings the calls along."""
    async with open_dashboard(house, tmp_path) as page:
        await choose(page, "preset:adder")
        await offer(page, "builtin/add")
        await page.wait_for(shows("#chat-skills-count", "(1 offered)"))
        await say(page, "What is 2 and 3?")
        await page.wait_for(shows("#chat-usage", "stop"))
        order = (
            "[...document.querySelector('#chat-log .assistant').children].map((n) => n.className)"
        )
        assert ["hidden-label", "said", "call", "said"] == await page.evaluate(order)
        await page.click("#chat-log .call summary")
        shown = await page.text("#chat-log .call")
        for expected in ("ok", "add", '"a"', "5"):
            assert expected in shown
        await say(page, "Again?")
        await page.wait_for("document.querySelectorAll('#chat-log .assistant .said').length === 3")
        await page.wait_for("document.querySelector('#chat-stop').hidden")
        assert [] == page.faults


async def test_a_conversation_is_cut_at_a_question(house: House, tmp_path: Path) -> None:
    """However many calls there were: a result without its call would be refused."""
    async with open_dashboard(house, tmp_path) as page:
        await choose(page, "adds")
        await offer(page, "builtin/add")
        await page.evaluate(KEEP_BODIES)
        for count in range(1, 11):  # the first adds four messages, the others two
            await say(page, f"Question {count}?")
            done = "document.querySelector('#chat-stop').hidden"
            asked = f"document.querySelectorAll('#chat-log .user').length === {count}"
            await page.wait_for(f"{asked} && {done}")
        assert "stop" in await page.text("#chat-usage")
        assert 0 == await page.evaluate("document.querySelectorAll('#chat-log .error').length")
        bodies = await page.evaluate("window.bodies")
        roles = [[message["role"] for message in body["messages"]] for body in bodies]
        assert {"user"} == {each[0] for each in roles}
        assert 17 == len(roles[-1])


@pytest.mark.parametrize(
    ("press", "badge"), [("Allow", "ok"), ("Refuse", "denied"), ("Stop", "needs approval")]
)
async def test_the_chat_asks_for_a_decision(
    house: House, tmp_path: Path, press: str, badge: str
) -> None:
    """The call waits with its arguments; the answer goes on with the decision, or is given up."""
    async with open_dashboard(house, tmp_path) as page:
        await choose(page, "dares")
        await offer(page, "local/delete")
        await say(page, "Delete it.")
        await page.wait_for(shows("#chat-usage", "waits for your decision"))
        assert await page.evaluate("document.querySelector('#chat-send').disabled")
        stop = "#chat-stop" if press == "Stop" else f"#chat-log [aria-label='{press} delete']"
        await page.click(stop)
        await page.wait_for("document.querySelector('#chat-stop').hidden")
        assert badge == await page.text("#chat-log .call .badge")
        assert await page.evaluate("document.querySelector('#chat-log .call .line').hidden")
        said = "stopped by you" if press == "Stop" else "stop"
        assert (await page.text("#chat-usage")).endswith(said)
        assert (press != "Stop") == await page.evaluate(shows("#chat-log .assistant", "Gone."))
        await say(page, "And now?")
        begun = ".user:nth-child(3) + .assistant :is(.said, .call)"
        await page.wait_for(f"document.querySelector({begun!r}) !== null")
        assert 0 == await page.evaluate("document.querySelectorAll('#chat-log .error').length")
        assert [] == page.faults
