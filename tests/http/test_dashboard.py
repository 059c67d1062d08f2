"""The dashboard of a real daemon: its files over HTTP, and the page in a real browser.

The models are fake ones, which answer as slowly as a test wants.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lmx.web.dashboard import CONTENT_SECURITY_POLICY, CONTENT_TYPES, PAGE
from tests.browser import CHROMIUM, open_browser
from tests.daemon_process import Daemon, open_daemon
from tests.http.shared import shared_daemon
from tests.http.test_dashboard_page import KEY, LIVE, shows
from tests.http.wire import Connection, Reply, encode_request

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ECHO = "fake:echo?step_ms=20&tokens=100"
OTHER = "fake:other?load_ms=1500&weight_bytes=2000000000"
LIMIT_S = 55
SPEED = "parseFloat(document.querySelector('#chart-speed .chart-value').innerText)"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a home and models of its own."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub"), "LMX_MEMORY__BUDGET_GB": "10"}
    with shared_daemon(home, ECHO, settings=own) as shared:
        yield shared


def get(daemon: Daemon, path: str, **headers: str) -> Reply:
    """One request; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with Connection(daemon) as connection:
        return connection.ask("GET", path, headers=named)


@pytest.mark.parametrize("name", sorted(CONTENT_TYPES))
def test_every_file_is_served_safely(daemon: Daemon, name: str) -> None:
    """With its type, for this page alone, and unchanged only once per change."""
    path = "/admin/ui" if name == PAGE else f"/admin/ui/{name}"
    reply = get(daemon, path)
    expected = {
        "content-type": CONTENT_TYPES[name],
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "content-security-policy": CONTENT_SECURITY_POLICY,
    }
    assert 200 == reply.status
    assert expected == {header: reply.headers[header] for header in expected}
    with Connection(daemon) as connection:
        known = {"if-none-match": f'"old", W/{reply.headers["etag"]}'}
        connection.send(encode_request("GET", path, headers=known))
        again = connection.read_head()
        assert 304 == again.status
        assert reply.headers["etag"] == again.headers["etag"]
        assert "content-length" not in again.headers
        changed = connection.ask("GET", path, headers={"if-none-match": '"old"'})
    assert (200, reply.body) == (changed.status, changed.body)


@pytest.mark.parametrize(
    "path",
    [
        "/admin/ui/../admin.py",
        "/admin/ui/..%2fadmin.py",
        "/admin/ui/%2e%2e/docs.html",
        "/admin/ui//etc/passwd",
        "/admin/ui/index.html/",
        "/admin/ui/no.js",
    ],
)
def test_nothing_else_is_served(daemon: Daemon, path: str) -> None:
    """A path is one of the table's or it is nothing."""
    assert (404, "not_found") == (get(daemon, path).status, get(daemon, path).json()["code"])


def test_the_front_door_knows_browsers(daemon: Daemon) -> None:
    """They get the page, everybody else the index; caches are told what it depends on."""
    page, index = get(daemon, "/", accept=BROWSER), get(daemon, "/", accept="application/json")
    assert get(daemon, "/admin/ui").body == page.body
    assert ("text/html; charset=utf-8", "accept") == (
        page.headers["content-type"],
        page.headers["vary"],
    )
    assert ("application/json", "accept") == (index.headers["content-type"], index.headers["vary"])
    assert "opta-lmx" == index.json()["service"] == get(daemon, "/").json()["service"]


def test_other_methods_are_refused(daemon: Daemon) -> None:
    """The page is read and nothing else."""
    with Connection(daemon) as connection:
        for path in ("/admin/ui", "/admin/ui/main.js"):
            assert 405 == connection.ask("POST", path, b"{}").status
        connection.send(encode_request("HEAD", "/admin/ui"))
        assert 200 == connection.read_head().status


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("path", ["/", "/admin/ui"])
async def test_a_model_is_managed_and_talked_to(daemon: Daemon, tmp_path: Path, path: str) -> None:
    """It loads without a fault, shows a model, loads and unloads one, chats; the charts move."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_browser(tmp_path) as browser,
            browser.open_page(daemon.url + path) as page,
        ):
            await page.wait_for(LIVE)
            await page.wait_for(shows("#loaded", "echo"))
            await page.fill("#load-name", OTHER)
            await page.press_enter()
            await page.wait_for(shows("#loading", "other"))
            await page.wait_for(shows("#activities", "other, 2.00 GB"))
            await page.wait_for(shows("#loaded", "other"))
            await page.wait_for(shows("#memory-legend", "other 2.00 GB"))
            await page.click("[aria-label='Unload other']")
            await page.wait_for(shows("#activities", "other: unloaded, 2.00 GB came free"))
            await page.wait_for(f"!{shows('#loaded', 'other')}")
            await page.wait_for("document.querySelector('#chat-model').value === 'echo'")
            still = "document.querySelector('#chart-speed path').getAttribute('d')"
            before = await page.evaluate(still)
            await page.fill("#chat-text", "hello there")
            await page.press_enter()
            await page.wait_for(shows("#requests", "decoding"))
            await page.wait_for(f"{SPEED} > 10")
            await page.wait_for(shows("#chat-usage", "+ 101 tokens"))
            assert before != await page.evaluate(still)
            await page.wait_for(shows("#chart-ttft", "ms"))
            await page.wait_for(f"{SPEED} === 0")
            await page.wait_for("!document.querySelector('#requests-empty').hidden")
            assert [] == page.faults


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_request_is_cancelled_and_a_worker_dies(daemon: Daemon, tmp_path: Path) -> None:
    """A press ends a chat; a worker's end stands there with its reason; the log tells of it."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_browser(tmp_path) as browser,
            browser.open_page(daemon.url + "/admin/ui") as page,
        ):
            await page.wait_for(LIVE)
            load = {"model_id": "fake:dies?fail=asked&step_ms=20&tokens=2000"}
            await page.evaluate(
                "fetch('/admin/models/load', {method: 'POST', body: "
                f"{json.dumps(json.dumps(load))}}}).then((reply) => reply.json())"
            )
            choose = "((s) => { s.value = 'dies'; return s.value; })"
            await page.wait_for(f"{choose}(document.querySelector('#chat-model')) === 'dies'")
            await page.fill("#chat-text", "talk on")
            await page.press_enter()
            await page.click("#requests button")
            await page.wait_for("document.querySelector('#chat-stop').hidden")
            await page.fill("#chat-text", "fail:abort:3")
            await page.press_enter()
            await page.wait_for(shows("#exits", "dies"))
            assert len(await page.text("#exits .reason")) > 5
            await page.click("#log-panel summary")
            await page.wait_for(shows("#log-lines", "worker ended"))
            await page.evaluate(
                "fetch('/admin/models/unload', {method: 'POST', body: '{\"model_id\": \"dies\"}'})"
                ".then((reply) => reply.json())"
            )


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_daemon_with_a_key_is_opened(tmp_path: Path) -> None:
    """The page comes without the key; a wrong one is told off, the right one opens everything."""
    own = {"HOME": str(tmp_path / "user"), "LMX_SECURITY__ADMIN_KEY": KEY}
    with trio.fail_after(LIMIT_S):
        async with (
            open_daemon(tmp_path / "home", ECHO, settings=own) as daemon,
            open_browser(tmp_path / "profile") as browser,
            browser.open_page(daemon.url) as page,
        ):
            await page.wait_for("document.querySelector('#key-dialog').open")
            assert "" == await page.text("#loaded")
            await page.fill("#key-input", "wrong")
            await page.press_enter()
            await page.wait_for(shows("#key-error", "key is wrong"))
            await page.evaluate("document.querySelector('#key-input').select()")
            await page.fill("#key-input", KEY)
            await page.press_enter()
            await page.wait_for(LIVE)
            await page.wait_for(shows("#loaded", "echo"))
            await page.wait_for("document.querySelector('#chat-model').value === 'echo'")
            await page.fill("#chat-text", "hello there")
            await page.press_enter()
            await page.wait_for(shows("#chat-usage", "+ 101 tokens"))
            assert all(KEY not in address for address in page.addresses)
            assert all(KEY not in str(line) for line in daemon.log_lines())


def test_the_log_is_told(daemon: Daemon) -> None:
    """The last lines with time, level and source, oldest first, as many as were asked for."""
    lines = get(daemon, "/admin/logs/tail?lines=1000").json()["lines"]
    [listening] = [line for line in lines if line["event"] == "listening"]
    assert ("info", "lmx.serve", daemon.pid) == (
        listening["level"],
        listening["logger"],
        listening["pid"],
    )
    assert sorted(line["ts"] for line in lines) == [line["ts"] for line in lines]
    assert lines[-1:] == get(daemon, "/admin/logs/tail?lines=1").json()["lines"]
    for text in ("0", "1001", "x"):
        refusal = get(daemon, f"/admin/logs/tail?lines={text}")
        assert (400, "lines") == (refusal.status, refusal.json()["error"]["param"])
