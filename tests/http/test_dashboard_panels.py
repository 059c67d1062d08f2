"""The dashboard's panels, its manners and its looks, in a real browser before a played daemon."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.browser import CHROMIUM, Page
from tests.http.dashboard_server import Asked, loaded_row, loading_row, open_stage, skill_list
from tests.http.test_dashboard_page import HOSTILE, open_dashboard, shows

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CHAT = ("POST", "/v1/chat/completions")


def running(request_id: str = "req_0123456789abcdef", **fields: Any) -> dict[str, Any]:
    """A row of the running requests."""
    row = {"request_id": request_id, "model_id": "played/model", "client": "10.0.0.7"}
    row |= {"route": CHAT[1], "state": "decoding", "received_at": time.time(), "age_s": 3.2}
    row |= {"prompt_tokens": 120, "completion_tokens": 48, "tokens_per_second": 15.25}
    return row | fields


async def open_skills(page: Page) -> None:
    """Open the panel of skills, the form of one, and the list in the chat."""
    await page.click("#skills-panel summary")
    await page.click("#skills summary")
    await page.click("#chat-skills summary")


async def test_requests_are_shown_and_cancelled(tmp_path: Path) -> None:
    """Each with what it has done so far; a press cancels it."""
    listed = {"requests": [running(), running("req_b", state="waiting")], "count": 2}
    async with open_stage() as stage:

        def cancel(_asked: Asked) -> Any:
            rows = [running("req_b", state="waiting")]
            stage.documents["GET", "/admin/requests"] = {"requests": rows, "count": 1}
            return {"success": True, "request_id": "req_0123456789abcdef"}

        stage.documents["GET", "/admin/requests"] = listed
        stage.documents["POST", "/admin/requests/req_0123456789abcdef/cancel"] = cancel
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for(shows("#requests", "120 + 48"))
            await page.wait_for(shows("#requests", "15.3 /s"))
            await page.click("[aria-label='Cancel req_0123456789abcdef']")
            await page.wait_for("document.querySelectorAll('#requests tr').length === 1")
            await page.click("[aria-label='Cancel req_b']")  # which has ended meanwhile: a 404
            stage.documents["GET", "/admin/requests"] = {"requests": [], "count": 0}
            await page.wait_for(shows("#requests-empty", "Nothing runs."))
            assert await page.evaluate("document.querySelector('#requests-error').hidden")


async def test_worker_exits_come_from_the_log_and_from_events(tmp_path: Path) -> None:
    """What happened before the page was opened, and after; the same end is told once."""
    before = {"event": "worker ended", "level": "warning", "model": "old", "kind": "oom"}
    before |= {"ts": time.time() - 600, "pid": 7, "reason": "the kernel ended it"}
    async with open_stage() as stage:
        stage.documents["GET", "/admin/logs/tail"] = {"lines": [before]}
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for(shows("#exits", "the kernel ended it"))
            fields = {"model_id": "new", "kind": "signal", "reason": "SIGSEGV", "pid": 8}
            stage.publish("worker_exited", **fields)
            stage.publish("worker_exited", **fields)
            await page.wait_for(shows("#exits", "SIGSEGV"))
            await page.wait_for(shows("#exits-count", "(2)"))
            first = await page.text("#exits li")
            assert "new" in first  # the latest stands first


async def test_the_log_is_read_while_it_is_open(tmp_path: Path) -> None:
    """Closed, it costs nothing; open, it follows and leaves out what is less severe."""
    lines = [
        {"ts": 1.0, "level": "debug", "event": "detail"},
        {"ts": 2.0, "level": "info", "event": "listening", "port": 1234},
        {"ts": 3.0, "level": "error", "event": "model failed", "reason": HOSTILE},
    ]
    async with open_stage() as stage:
        stage.documents["GET", "/admin/logs/tail"] = {"lines": lines}
        async with open_dashboard(tmp_path, stage) as page:
            await page.wait_for("!document.querySelector('#log-card').hidden")
            await trio.sleep(3.5)
            assert ["1000"] == [a.query["lines"] for a in stage.requests_to("/admin/logs/tail")]
            await page.click("#log-panel summary")
            await page.wait_for(shows("#log-lines", "listening port=1234"))
            assert "detail" not in await page.text("#log-lines")
            assert HOSTILE in await page.text("#log-lines")
            lines.append({"ts": 4.0, "level": "warning", "event": "later"})
            await page.wait_for(shows("#log-lines", "later"))
            assert [] == page.faults


async def _words(count: int) -> AsyncIterator[Any]:
    for index in range(count):
        yield {"choices": [{"index": 0, "delta": {"content": f" w{index}"}, "finish_reason": None}]}
        await trio.sleep(0.02)
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": count}}
    yield "[DONE]"


async def _calls(text: str) -> AsyncIterator[Any]:
    about: dict[str, Any] = {"call_id": text, "skill": text, "name": text}
    result = {"ok": False, "error": text, "duration_ms": 2.5}
    for event in (
        {**about, "type": "skill.call", "arguments": text},
        {**about, "type": "skill.result", **result},
    ):
        yield {"choices": [], "skill_event": event}
    async for chunk in _words(1):
        yield chunk


async def test_runs_of_skills_come_from_events(tmp_path: Path) -> None:
    """Each from its start to its end; of two at a time the right one ends."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        await page.wait_for("!document.querySelector('#skills-card').hidden")
        await page.click("#skills-panel summary")
        await page.wait_for(shows("#skill-runs-empty", "No skill has run"))
        for skill in ("local/one@1.0.0", "local/two@1.0.0"):
            stage.publish("skill_started", skill=skill, request_id="req_7")
        await page.wait_for("document.querySelectorAll('#skill-runs li').length === 2")
        ended = {"outcome": "timed_out", "duration_ms": 1500.0}
        stage.publish("skill_finished", skill="local/one@1.0.0", request_id="req_7", **ended)
        await page.wait_for(shows("#skill-runs li:nth-child(2)", "timed out local/one@1.0.0 1.5 s"))
        assert (await page.text("#skill-runs li")).startswith("running local/two@1.0.0")
        stage.publish("events_missed", kept=0)
        await page.wait_for("document.querySelectorAll('#skill-runs li').length === 1")
        assert [] == page.faults


async def test_a_chat_streams_and_stops(tmp_path: Path) -> None:
    """Text as it comes, then counts and speed; Stop ends it and the conversation goes on."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        stage.documents[CHAT] = lambda _asked: _words(10)
        await page.wait_for("document.querySelector('#chat-model').value === 'played/model'")
        await page.fill("#chat-text", "hello")
        await page.press_enter()
        await page.wait_for(shows("#chat-usage", "5 + 10 tokens"))
        usage = await page.text("#chat-usage")
        assert "tokens/s" in usage
        assert usage.endswith("stop")
        assert "w0 w1 w2" in await page.text("#chat-log .assistant .said")
        stage.documents[CHAT] = lambda _asked: _words(10_000)
        await page.fill("#chat-text", "more")
        await page.click("#chat-send")
        await page.wait_for(shows("#chat-log .assistant:last-child .said", "w5"))
        await page.click("#chat-stop")
        await page.wait_for(shows("#chat-usage", "stopped by you"))
        await page.wait_for("document.querySelector('#chat-stop').hidden")
        second = stage.requests_to(CHAT[1])[1].body
        assert ["user", "assistant", "user"] == [m["role"] for m in second["messages"]]
        assert ("played/model", True) == (second["model"], second["stream"])
        assert [] == page.faults


async def test_a_chat_says_what_went_wrong(tmp_path: Path) -> None:
    """A refusal, an error in the middle of the stream, and a stream that breaks off."""

    async def fails(error: Any) -> AsyncIterator[Any]:
        yield {"choices": [{"index": 0, "delta": {"content": "so far"}, "finish_reason": None}]}
        if error:
            yield {"error": {"message": "the model's worker ended", "code": "worker_crashed"}}
        await trio.lowlevel.checkpoint()

    answers = [
        (429, {"code": "rate_limited", "error": {"message": "too many wait", "code": "x"}}),
        fails(error=True),
        fails(error=False),
    ]
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        stage.documents[CHAT] = lambda _asked: answers.pop(0)
        await page.wait_for("document.querySelector('#chat-model').value === 'played/model'")
        for expected in (
            "too many wait (429 rate_limited)",
            "the model's worker ended (worker_crashed)",
            "the stream ended before the answer did",
        ):
            await page.fill("#chat-text", "hello")
            await page.click("#chat-send")
            await page.wait_for(shows("#chat-log .assistant:last-child .error", expected))
            await page.wait_for(shows("#chat-usage", "failed"))


async def test_data_is_never_markup(tmp_path: Path) -> None:
    """What a model or a client calls itself stands there letter by letter and does nothing."""
    async with open_stage() as stage:
        stage.documents["GET", "/admin/models"] = {
            "loaded": [loaded_row(HOSTILE)],
            "loading": [loading_row(HOSTILE + "2", reason=HOSTILE)],
        }
        rows = [running(HOSTILE, model_id=HOSTILE, client=HOSTILE, state=HOSTILE)]
        stage.documents["GET", "/admin/requests"] = {"requests": rows, "count": 1}
        stage.documents["GET", "/v1/skills"] = skill_list(HOSTILE, HOSTILE)
        presets = [{"name": HOSTILE, "model": HOSTILE}]
        stage.documents["GET", "/admin/presets"] = {"presets": presets}
        stage.documents[CHAT] = lambda _asked: _calls(HOSTILE)
        async with open_dashboard(tmp_path, stage) as page:
            await open_skills(page)
            await page.fill("#chat-text", HOSTILE)
            await page.press_enter()
            await page.wait_for(shows("#chat-log .assistant", HOSTILE))
            await page.click("#chat-log .call summary")
            stage.publish("skill_started", skill=HOSTILE, request_id=HOSTILE)
            await page.wait_for(shows("#skill-runs", HOSTILE))
            stage.publish("worker_exited", model_id=HOSTILE, kind=HOSTILE, reason=HOSTILE, pid=1)
            stage.publish("memory_warning", message=HOSTILE, pct=86.0)
            await page.wait_for(shows("#exits", HOSTILE))
            await page.wait_for(shows("#requests", HOSTILE))
            places = ["#loaded", "#loading", "#notice-text", "#skills", "#skills-broken"]
            for place in (*places, "#chat-skill-list", "#chat-log .call", "#chat-model"):
                assert HOSTILE in await page.text(place)
            assert 1 == await page.evaluate("document.images.length")  # the logo
            assert [] == page.faults


async def test_an_idle_page_asks_seldom_and_a_hidden_one_never(tmp_path: Path) -> None:
    """At most two requests a second with everything open; none while nobody looks."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        await page.click("#log-panel summary")
        await trio.sleep(2)
        seen = len(stage.asked)
        await trio.sleep(5)
        assert 5 <= len(stage.asked) - seen <= 10
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await trio.sleep(0.5)
        seen = len(stage.asked)
        await trio.sleep(3.5)
        assert seen == len(stage.asked)
        await page.evaluate(
            "window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))"
        )
        await trio.sleep(0.5)
        assert seen < len(stage.asked)


@pytest.mark.parametrize("width", [360, 414, 768, 1440])
async def test_every_width_fits(tmp_path: Path, width: int) -> None:
    """Nothing has to be moved sideways to be read, even with long names."""
    name = "organisation-with-a-long-name/" + "model" * 12
    async with open_stage() as stage:
        stage.documents["GET", "/admin/models"] = {
            "loaded": [loaded_row(name)],
            "loading": [loading_row(name + "2", waiting=3, reason="x" * 200)],
        }
        on_disk = {"repo_id": name, "size_bytes": 10**9, "format": "mlx"}
        stage.documents["GET", "/admin/models/available"] = [on_disk]
        rows = [running(model_id=name, client="y" * 60)]
        stage.documents["GET", "/admin/requests"] = {"requests": rows, "count": 1}
        stage.documents["GET", "/v1/skills"] = skill_list("s" * 80, "t" * 300)
        presets = [{"name": "p" * 60, "model": name}]
        stage.documents["GET", "/admin/presets"] = {"presets": presets}
        async with open_dashboard(tmp_path, stage) as page:
            await page.resize(width, 800, is_phone=width < 500)
            await open_skills(page)
            stage.publish("skill_started", skill="s" * 80, request_id="r" * 80)
            await page.wait_for(shows("#skill-runs", "sss"))
            await page.wait_for(shows("#requests", "120 + 48"))
            await page.wait_for(shows("#loaded", name))
            stage.publish("worker_exited", model_id=name, kind="oom", reason="z" * 300, pid=1)
            await page.wait_for(shows("#exits", "zzz"))
            used, seen = await page.evaluate(
                "((root) => [root.scrollWidth, root.clientWidth])(document.documentElement)"
            )
            assert used == seen <= width


async def test_dark_and_light_differ(tmp_path: Path) -> None:
    """The page follows what the system prefers, and stays legible in both."""
    shades = {}
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        for scheme in ("light", "dark"):
            await page.prefer(prefers_color_scheme=scheme)
            shades[scheme] = await page.evaluate(
                "((style) => [style.backgroundColor, style.color].map((colour) =>"
                " colour.match(/\\d+/g).map(Number).reduce((sum, part) => sum + part) / 3))"
                "(getComputedStyle(document.body))"
            )
    for page_shade, text_shade in shades.values():
        assert 150 < abs(page_shade - text_shade)
    assert shades["dark"][0] < 40
    assert shades["light"][0] > 200


async def test_every_control_has_a_name(tmp_path: Path) -> None:
    """Screen readers can say what each button and field is for."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        await page.wait_for(shows("#loaded", "played/model"))
        await open_skills(page)
        tree = await page.call("Accessibility.getFullAXTree")
        roles = {"button", "textbox", "combobox", "checkbox", "image"}
        controls = [node for node in tree["nodes"] if node.get("role", {}).get("value") in roles]
        assert len(controls) > 10
        unnamed = [n for n in controls if not n["ignored"] and not n["name"]["value"]]
        assert [] == unnamed


PIECES = """
(async () => {
  const { EventParser } = await import("/admin/ui/sse.js");
  const text = ": note\\r\\nid: 7\\nevent: a\\ndata: one\\ndata:two\\n\\n" +
    "data: x\\r\\n\\r\\nid\\rdata\\r\\rdata: y\\n";
  const told = [];
  for (let cut = 0; cut <= text.length; cut += 1) {
    const parser = new EventParser();
    const events = [...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))];
    told.push(JSON.stringify(events.map(({ type, data, id }) => [type, data, id])));
  }
  return [...new Set(told)];
})()
"""


async def test_events_are_read_however_they_are_cut(tmp_path: Path) -> None:
    """The stream's lines end as the standard allows, and may be torn anywhere."""
    async with open_stage() as stage, open_dashboard(tmp_path, stage) as page:
        [told] = await page.evaluate(PIECES)
    assert '[["a","one\\ntwo","7"],["message","x","7"],["message","",""]]' == told
