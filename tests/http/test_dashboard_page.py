"""The dashboard in a real browser before a played daemon, which fails and asks for keys."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from tests.browser import CHROMIUM, Page, open_browser
from tests.http.dashboard_server import Asked, Stage, loaded_row, loading_row, open_stage

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

LIMIT_S = 50
LIVE = "document.querySelector('#connection').dataset.state === 'live'"
KEY = "s3cret-key"
HOSTILE = '<img src="/x" onerror="fail()">\'"&amp;'


def state(name: str) -> str:
    """Whether the connection is in a state, in JavaScript."""
    return f"document.querySelector('#connection').dataset.state === {name!r}"


def shows(selector: str, text: str) -> str:
    """Whether an element holds a text, in JavaScript."""
    found = f"document.querySelector({json.dumps(selector)})"
    return f"{found}?.innerText.includes({json.dumps(text)})"


@asynccontextmanager
async def open_dashboard(
    profile: Path, stage: Stage, path: str = "/admin/ui", *, is_live: bool = True
) -> AsyncIterator[Page]:
    """The page of a played daemon, listening to its events."""
    with trio.fail_after(LIMIT_S):
        async with open_browser(profile) as browser, browser.open_page(stage.url + path) as page:
            if is_live:
                await page.wait_for(LIVE)
            yield page


def throughput(speed: float, **fields: Any) -> dict[str, Any]:
    """The fields of an event about one second."""
    return {
        "tokens_per_second": speed,
        "active_requests": 2,
        "waiting_requests": 1,
        "model": "played/model",
        "ttft_ms": None,
        "itl_ms": 23.5,
        "queue_ms": None,
    } | fields


@pytest.mark.parametrize("path", ["/", "/admin/ui", "/admin/ui/"])
async def test_it_shows_what_it_is_told(tmp_path: Path, path: str) -> None:
    """Models, memory and version stand there; nothing is wrong; nobody else is asked anything."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage, path) as page:
        await page.wait_for(shows("#loaded", "played/model"))
        await page.wait_for(shows("#memory-legend", "played/model 4.00 GB"))
        await page.wait_for(shows("#about", "9.9 · up 1 h 1 min"))
        legend = await page.text("#memory-legend")
        assert "Others 16.0 GB" in legend  # 20 in use, 4 of them the model's
        assert "Reserved for KV caches 2.00 GB" in legend
        assert [] == page.faults
        assert {urlsplit(stage.url).netloc} == {urlsplit(each).netloc for each in page.addresses}


async def test_charts_follow_the_events(tmp_path: Path) -> None:
    """Values are drawn as they come; silence is zero tokens, but no TTFT of zero."""

    async def say_nothing(_asked: Asked) -> None:
        await trio.sleep_forever()

    async with open_stage() as stage:
        # What is asked for would otherwise be drawn over what is told.
        stage.documents["GET", "/admin/memory"] = say_nothing
        await follow_events(stage, tmp_path)


async def follow_events(stage: Stage, profile: Path) -> None:
    """The charts before a daemon that answers no questions about memory."""
    async with open_dashboard(profile, stage) as page:
        flat = await page.wait_for("document.querySelector('#chart-speed path').getAttribute('d')")
        stage.publish("throughput", **throughput(42.25, ttft_ms=180.0))
        await page.wait_for(shows("#chart-speed", "42.3"))
        await page.wait_for(shows("#chart-ttft", "180 ms"))
        await page.wait_for(shows("#chart-itl", "23.5 ms"))
        await page.wait_for(shows("#chart-queue", "2 run, 1 wait"))
        assert flat != await page.evaluate(
            "document.querySelector('#chart-speed path').getAttribute('d')"
        )
        await page.wait_for(f"!({shows('#chart-speed', '42.3')})")
        assert "0" == await page.text("#chart-speed .chart-value")
        stage.publish("throughput", **throughput(7, ttft_ms=200.0))
        runs = "document.querySelector('#chart-{} path').dataset.runs"
        await page.wait_for(runs.format("ttft") + " === '2'")
        assert "1" == await page.evaluate(runs.format("speed"))
        stage.publish("memory", vram_used_gb=32.0, vram_total_gb=64.0, pct=50.0)
        await page.wait_for(shows("#chart-memory", "32.0 GB, 50 %"))
        assert [] == page.faults


async def test_late_events_stand_where_they_happened(tmp_path: Path) -> None:
    """A sample that a reconnect brings late is drawn at its own time."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        stage.publish("heartbeat", uptime=1.0, timestamp=0.0)
        old_s = 60.0
        now_s = await page.evaluate("Date.now() / 1000")
        stage.publish("throughput", **throughput(50, ttft_ms=10.0, ts=now_s - old_s))
        left = await page.wait_for(
            "+(document.querySelector('#chart-ttft path').getAttribute('d')"
            ".match(/^M([\\d.]+) /) ?? [])[1]"
        )
        width = await page.evaluate(
            "document.querySelector('#chart-ttft svg').viewBox.baseVal.width"
        )
        assert 0.4 < (left - 38) / (width - 44) < 0.6


async def test_a_key_is_asked_for(tmp_path: Path) -> None:
    """A wrong key is refused, a right one opens everything and never stands in an address."""
    async with open_stage() as stage:
        stage.key = KEY
        async with open_dashboard(tmp_path, stage, is_live=False) as page:
            await page.wait_for("document.querySelector('#key-dialog').open")
            await page.wait_for(state("locked"))
            await trio.sleep(2)  # what was asked before the first refusal still arrives
            seen = len(stage.asked)
            await trio.sleep(2.5)
            assert seen == len(stage.asked)  # nobody asks on behind the question
            await page.fill("#key-input", "wrong")
            await page.press_enter()
            await page.wait_for(shows("#key-error", "the admin key is missing or wrong"))
            await page.evaluate("document.querySelector('#key-input').value = ''")
            await page.fill("#key-input", KEY)
            await page.press_enter()
            await page.wait_for(LIVE)
            await page.wait_for(shows("#loaded", "played/model"))
            assert not await page.evaluate("document.querySelector('#key-dialog').open")
            assert KEY == stage.requests_to("/admin/events")[-1].headers["x-admin-key"]
            assert [KEY, None] == await page.evaluate(STORED)
            await page.call("Page.reload")
            await page.wait_for(LIVE)
            assert all(KEY not in address for address in page.addresses)


STORED = "[sessionStorage, localStorage].map((place) => place.getItem('lmx-admin-key'))"


async def test_a_key_is_remembered_and_forgotten(tmp_path: Path) -> None:
    """Kept on the device if the box is ticked, until somebody forgets it."""
    async with open_stage() as stage:
        stage.key = KEY
        async with open_dashboard(tmp_path, stage, is_live=False) as page:
            await page.wait_for("document.querySelector('#key-dialog').open")
            await page.click("#key-remember")
            await page.fill("#key-input", KEY)
            await page.click("#key-form button[type=submit]")
            await page.wait_for(LIVE)
            assert [None, KEY] == await page.evaluate(STORED)
            await page.click("#key-button")
            await page.wait_for("document.querySelector('#key-dialog').open")
            assert [None, None] == await page.evaluate(STORED)
            await page.click("#key-cancel")
            await page.click("#key-button")
            assert await page.evaluate("document.querySelector('#key-dialog').open")


async def test_a_broken_stream_is_taken_up_again(tmp_path: Path) -> None:
    """The page says so, comes back where it was, and misses nothing in between."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        stage.publish("heartbeat", uptime=1.0, timestamp=0.0)
        await trio.sleep(0.3)
        stage.cut()
        await page.wait_for(state("reconnecting"))
        stage.publish("worker_exited", model_id="m", kind="signal", reason="SIGKILL", pid=71)
        await page.wait_for(LIVE)
        assert "2" == stage.requests_to("/admin/events")[-1].headers["last-event-id"]
        await page.wait_for(shows("#exits", "process 71"))
        assert 1 == await page.evaluate("document.querySelectorAll('#exits li').length")
        assert [] == page.faults


async def test_pauses_between_attempts_grow(tmp_path: Path) -> None:
    """One second, then two, then four; pressing the state asks at once."""
    async with open_stage() as stage:
        stage.is_streaming = False
        async with open_dashboard(tmp_path, stage, is_live=False) as page:
            await trio.sleep(8)
            times = [asked.at_s for asked in stage.requests_to("/admin/events")]
            pauses = [late - early for early, late in pairwise(times)]
            for expected, pause in zip((1, 2, 4), pauses, strict=True):
                assert expected <= pause < expected + 1
            stage.is_streaming = True
            await page.click("#connection")
            await page.wait_for(LIVE, limit_s=2)


async def test_nobody_there_is_offline(tmp_path: Path) -> None:
    """Without a network the page says offline, and is live again soon after it is back."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        await page.set_offline(is_offline=True)
        stage.cut()
        await page.wait_for(state("offline"))
        await page.set_offline(is_offline=False)
        await page.wait_for(LIVE)


async def test_loads_tell_how_they_went(tmp_path: Path) -> None:
    """Progress while it loads, then the server's own words, good or bad."""
    may_answer = trio.Event()

    async def load(asked: Asked) -> Any:
        if asked.body["model_id"] == "too/big":
            message = "it needs 99.0 GB, free 34.0 GB"
            return 507, {"code": "out_of_memory", "error": {"message": message, "code": "x"}}
        await may_answer.wait()
        return {"model_id": "small", "time_to_load_ms": 2500.0, "vram_gb": 1.25}

    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        stage.documents["POST", "/admin/models/load"] = load
        await page.fill("#load-name", "fake:small?load_ms=1")
        await page.press_enter()
        await page.wait_for(shows("#activities", "fake:small?load_ms=1: loading for "))
        row = loading_row("small", waiting=2, reason="its worker ended")
        stage.documents["GET", "/admin/models"] = {"loaded": [], "loading": [row], "models": []}
        stage.publish("model_state", model_id="small", state="loading")
        await page.wait_for(shows("#loading", "2 requests wait"))
        await page.wait_for(shows("#loading", "The last attempt failed: its worker ended"))
        done = {"loaded": [loaded_row("small")], "loading": [], "models": []}
        stage.documents["GET", "/admin/models"] = done
        may_answer.set()
        await page.wait_for(shows("#activities", "loaded in 2.5 s as small, 1.25 GB"))
        await page.wait_for(shows("#loaded", "small"))
        await page.fill("#load-name", "too/big")
        await page.click("#load-form button")
        await page.wait_for(
            shows("#activities", "too/big: it needs 99.0 GB, free 34.0 GB (507 out_of_memory)")
        )
        names = [asked.body["model_id"] for asked in stage.requests_to("/admin/models/load")]
        assert ["fake:small?load_ms=1", "too/big"] == names


async def test_models_on_disk_are_listed_and_loaded(tmp_path: Path) -> None:
    """With their status and its reason; a press loads one, a press unloads one."""
    whole = {
        "repo_id": "org/whole",
        "size_bytes": 4 * 10**9,
        "format": "mlx",
        "quantization": "4bit",
    }
    part = {"repo_id": "org/part", "size_bytes": 10, "format": "gguf"}
    part |= {"status": "incomplete", "reason": "part 2 of 3 is missing"}
    async with open_stage() as stage:
        stage.documents["GET", "/admin/models/available"] = [whole, part]
        stage.documents["POST", "/admin/models/load"] = {"model_id": "org/whole", "vram_gb": 4.0}
        stage.documents["POST", "/admin/models/unload"] = {"memory_freed_gb": 4.0}
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for(shows("#disk", "incomplete: part 2 of 3 is missing"))
            assert "mlx 4bit" in await page.text("#disk")
            await page.click("[aria-label='Load org/whole']")
            await page.wait_for(shows("#activities", "org/whole: loaded"))
            await page.click("[aria-label='Unload played/model']")
            await page.wait_for(shows("#activities", "played/model: unloaded, 4.00 GB came free"))
        [asked] = stage.requests_to("/admin/models/unload")
        assert {"model_id": "played/model"} == asked.body


async def test_downloads_are_shown_and_cancelled(tmp_path: Path) -> None:
    """A bar grows with the bytes; cancelling ends it; a refusal is told."""
    got = iter((25, 50))
    row = {"download_id": "d/1", "repo_id": "org/new", "status": "downloading", "error": None}
    row |= {"total_bytes": 10**9, "files_completed": 1, "files_total": 3, "error_code": None}

    def pull(asked: Asked) -> Any:
        if asked.body["repo_id"] == "org/closed":
            return 403, {"code": "downloads_disabled", "error": {"message": "no downloads here"}}
        return {"download_id": "d/1", "repo_id": "org/new", "estimated_size_bytes": 10**9}

    def progress(_asked: Asked) -> Any:
        percent = next(got, 50)
        return row | {"progress_percent": percent, "downloaded_bytes": percent * 10**7}

    async with open_stage() as stage:
        stage.documents["POST", "/admin/models/download"] = pull
        stage.documents["GET", "/admin/models/download/d/1/progress"] = progress
        stage.documents["POST", "/admin/models/download/d/1/cancel"] = row | {"status": "cancelled"}
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for("!document.querySelector('#pull-form').hidden")
            await page.fill("#pull-name", "org/new")
            await page.press_enter()
            await page.wait_for("document.querySelector('#pulls progress')?.value === 25")
            await page.wait_for("document.querySelector('#pulls progress')?.value === 50")
            assert "50 %, 500 MB of 1.00 GB, 1 of 3 files" in await page.text("#pulls")
            await page.click("#pulls button")
            await page.wait_for(shows("#pulls", "org/new: cancelled"))
            await page.fill("#pull-name", "org/closed")
            await page.click("#pull-form button")
            await page.wait_for(shows("#pulls", "no downloads here (403 downloads_disabled)"))


async def test_a_download_has_a_speed_until_it_is_deleted(tmp_path: Path) -> None:
    """The speed is that of a second or more, however often news come; what is gone is not shown."""
    row = {"download_id": "d1", "repo_id": "org/new", "status": "downloading", "error": None}
    row |= {"total_bytes": 10**9, "progress_percent": 1.0, "error_code": None}
    async with open_stage() as stage:
        stage.documents["POST", "/admin/models/download"] = row
        stage.documents["GET", "/admin/models/download/d1/progress"] = row
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for("!document.querySelector('#pull-form').hidden")
            await page.fill("#pull-name", "org/new")
            await page.press_enter()
            await page.wait_for(shows("#pulls", "1.00 GB"))
            for step in range(15):
                row["downloaded_bytes"] = step * 10**6
                stage.publish("download_progress", **row)
                stage.publish("download_progress", **row)
                await trio.sleep(0.1)
            speed = await page.text("#pulls .activity-text")
            assert 3 < float(speed.rsplit(", ", 1)[1].removesuffix(" MB/s")) < 15
            del stage.documents["GET", "/admin/models/download/d1/progress"]
            await page.wait_for("document.querySelectorAll('#pulls li').length === 0")


async def test_no_downloads_without_the_route(tmp_path: Path) -> None:
    """A server that cannot download shows no form for it."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        await page.wait_for("!document.querySelector('#requests-card').hidden")
        assert await page.evaluate("document.querySelector('#pull-form').hidden")
