"""A real headless Chromium, spoken to over the DevTools protocol: what tests of pages look through.

    async with open_browser(tmp_path) as browser, browser.open_page(url) as page:
        await page.wait_for("document.title === 'LMX'")
        assert [] == page.faults

One connection per browser and one task that reads it; a page is a session on that connection. The
browser and all its processes end with the block. Every wait is bounded.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
# A machine with two busy cores.
START_LIMIT_S = 30.0
CALL_LIMIT_S = 20.0
WAIT_LIMIT_S = 15.0
POLL_S = 0.05
MESSAGE_BYTES = 32 * 1024 * 1024  # a screenshot is one message
FIRST_BAD_STATUS = 400

Message = dict[str, Any]


class PageError(Exception):
    """A script failed, the browser refused a command, or a condition did not come true."""


class Browser:
    """A running browser.

    Args:
        socket: The connection to it.
    """

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._last_id = 0
        self._replies: dict[int, trio.MemorySendChannel[Message]] = {}
        self._pages: dict[str, Page] = {}

    async def run(self) -> None:
        """Hand out what the browser says, until it is gone."""
        with suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._socket.get_message())
                if (waiting := self._replies.pop(message.get("id"), None)) is not None:
                    waiting.send_nowait(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.notice(message["method"], message["params"])

    async def call(self, method: str, *, session: str | None = None, **params: Any) -> Message:
        """One command and its result.

        Raises:
            PageError: The browser refuses it.
        """
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        send, receive = trio.open_memory_channel[Message](1)
        self._replies[self._last_id] = send
        with trio.fail_after(CALL_LIMIT_S):
            await self._socket.send_message(json.dumps(command))
            reply = await receive.receive()
        if "error" in reply:
            raise PageError(f"{method}: {reply['error']['message']}")
        result: Message = reply["result"]
        return result

    @asynccontextmanager
    async def open_page(self, url: str = "about:blank") -> AsyncIterator["Page"]:
        """A page of its own, whose scripts may still run when the block begins."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        if url != "about:blank":
            await page.visit(url)
        yield page
        await self.call("Target.closeTarget", targetId=target)


class Page:
    """One page, with everything that went wrong on it.

    Attributes:
        faults: Errors and warnings on the console, uncaught exceptions, and requests that failed or
            were refused, each as a line of text.
        addresses: Every address that was asked for.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self.faults: list[str] = []
        self.addresses: list[str] = []
        self._browser = browser
        self._session = session

    def notice(self, method: str, params: Message) -> None:
        """Take an event of the browser."""
        match method:
            case "Network.requestWillBeSent":
                self.addresses.append(params["request"]["url"])
            case "Network.loadingFailed" if not params.get("canceled"):
                self.faults.append(f"network: {params['errorText']}")
            case "Network.responseReceived":
                response = params["response"]
                if response["status"] >= FIRST_BAD_STATUS:
                    self.faults.append(f"network: {response['status']} {response['url']}")
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                said = [str(a.get("value", a.get("description"))) for a in params["args"]]
                self.faults.append(f"console: {' '.join(said)}")
            case "Runtime.exceptionThrown":
                self.faults.append(f"exception: {_explain(params['exceptionDetails'])}")
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                entry = params["entry"]
                if entry["source"] != "network":  # heard above, with the address
                    self.faults.append(f"log: {entry['text']}")

    async def call(self, method: str, **params: Any) -> Message:
        """One command to this page."""
        return await self._browser.call(method, session=self._session, **params)

    async def visit(self, url: str) -> None:
        """Go to an address.

        Raises:
            PageError: Nobody answers there.
        """
        reply = await self.call("Page.navigate", url=url)
        if "errorText" in reply:
            raise PageError(f"{url}: {reply['errorText']}")
        await self.wait_for("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, waited for if it is a promise.

        Raises:
            PageError: It throws.
        """
        reply = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in reply:
            raise PageError(f"{expression}: {_explain(reply['exceptionDetails'])}")
        return reply["result"].get("value")

    async def wait_for(self, condition: str, *, limit_s: float = WAIT_LIMIT_S) -> Any:
        """Wait until a JavaScript expression is true, and give its value.

        Raises:
            PageError: It did not become true; the message shows the page's text.
        """
        with trio.move_on_after(limit_s):
            while True:
                if value := await self._try(condition):
                    return value
                await trio.sleep(POLL_S)
        shown = await self.evaluate("document.body.innerText")
        raise PageError(f"not within {limit_s} s: {condition}\n{self.faults}\n{shown}")

    async def text(self, selector: str) -> str:
        """The visible text of the first element that a selector finds."""
        return str(await self.evaluate(f"document.querySelector({selector!r}).innerText"))

    async def click(self, selector: str) -> None:
        """Press the first element that a selector finds, once it is there and enabled."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.wait_for(f"{found} && !{found}.disabled")
        await self.evaluate(f"{found}.click()")

    async def fill(self, selector: str, text: str) -> None:
        """Type a text into a field, as the keyboard would."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        """Press the return key where the focus is."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the page a size in CSS pixels; a phone has a touch screen and dense pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    async def prefer(self, **features: str) -> None:
        """Set media features, with underscores: ``prefer(prefers_color_scheme="dark")``."""
        pairs = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=pairs)

    async def set_offline(self, *, is_offline: bool) -> None:
        """Take the network away, or give it back."""
        await self.call(
            "Network.emulateNetworkConditions",
            offline=is_offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    async def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        reply = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(reply["data"])

    async def _try(self, condition: str) -> Any:
        """The condition's value; a page that is between two documents has none yet."""
        with suppress(PageError):
            return await self.evaluate(condition)
        return None


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Browser]:
    """A browser with a fresh profile.

    Args:
        profile: Where it keeps its files, and its standard error as ``browser.log``.
    """
    process = _start(profile)
    try:
        url = await _wait_url(profile, process)
        async with (
            open_websocket_url(url, max_message_size=MESSAGE_BYTES) as socket,
            trio.open_nursery() as nursery,
        ):
            browser = Browser(socket)
            nursery.start_soon(browser.run)
            yield browser
            nursery.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(START_LIMIT_S)


def _start(profile: Path) -> "subprocess.Popen[bytes]":
    profile.mkdir(parents=True, exist_ok=True)
    with (profile / "browser.log").open("wb") as log:
        return subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _wait_url(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """The browser writes the port and the path of its debugger to a file."""
    written = trio.Path(profile / "DevToolsActivePort")
    with trio.fail_after(START_LIMIT_S):
        while process.poll() is None:
            with suppress(FileNotFoundError):
                lines = (await written.read_text()).splitlines()
                if len(lines) == 2:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await trio.sleep(POLL_S)
    raise PageError((profile / "browser.log").read_text("utf-8", "replace")[-2000:])


def _explain(details: Message) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
