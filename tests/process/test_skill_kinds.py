"""Skills of every kind in real, contained processes, and what is written in the docs about them."""

import gzip
import json
import operator
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from lmx.config import SkillSettings
from lmx.skills.builtin.web import read_page
from lmx.skills.containment import Containment
from lmx.skills.desk import SkillDesk
from lmx.skills.manifest import SCHEMA_ID
from lmx.skills.outcome import Outcome
from tests.chat_client import wait_until
from tests.fakes import Recorder

DOCS = Path(__file__).parents[2] / "docs" / "skills.md"
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


@asynccontextmanager
async def open_desk(
    home: Path, *, environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[SkillDesk]:
    """A desk that follows its folders, with a time limit for the block."""
    desk = SkillDesk(
        SkillSettings(**settings),
        home,
        box=Containment(home, environment=environment or {}),
        telemetry=Recorder(),
        internal={},
    )
    with trio.fail_after(40):
        await desk.prepare()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            yield desk
            nursery.cancel_scope.cancel()


def write_skill(home: Path, name: str, **fields: Any) -> Path:
    """A manifest in the home directory; whoever runs skills may read it."""
    path = home / "skills" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"schema": SCHEMA_ID, "name": name, **fields}))
    return path


def write_function(home: Path, source: str, **fields: Any) -> None:
    """A skill ``f`` that is the function ``f`` of this source."""
    write_skill(home, "f", kind="entrypoint", entrypoint="code:f", **fields)
    (home / "skills" / "code.py").write_text(source)


async def call(desk: SkillDesk, name: str, /, **arguments: Any) -> Outcome:
    """Call a skill by name."""
    return await desk.call(desk.find(name), arguments)


async def answer(desk: SkillDesk, name: str, /, **arguments: Any) -> Any:
    """What a skill answers; that it fails is the test's failure."""
    outcome = await call(desk, name, **arguments)
    assert outcome.ok, outcome.error
    return outcome.output


async def error(desk: SkillDesk, name: str, /, **arguments: Any) -> str:
    """Why a skill does not answer."""
    outcome = await call(desk, name, **arguments)
    assert not outcome.ok
    return str(outcome.error)


async def test_the_built_in_skills(tmp_path: Path) -> None:
    """Each answers as its description says."""
    async with open_desk(tmp_path) as desk:
        assert "hé" == await answer(desk, "echo", text="hé")
        assert 5 == await answer(desk, "add", a=2, b=3)
        assert 5.5 == await answer(desk, "builtin/add@1.0.0", a=2.5, b=3)
        assert "too large" in await error(desk, "add", a=1e308, b=1e308)
        assert 6 == await answer(desk, "calculator", expression="2 * 3")
        assert "the result is too large" == await error(desk, "calculator", expression="9**9**9")
        now = await answer(desk, "current_time", zone="Asia/Tokyo")
        assert now["iso"].endswith("+09:00")
        assert "no time zone" in await error(desk, "current_time", zone="../etc/passwd")


async def test_read_file_stays_in_its_folders(tmp_path: Path) -> None:
    """Text comes a piece at a time; links, parents and other files do not come at all."""
    folder, outside = tmp_path / "open", tmp_path / "secret.txt"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "a.txt").write_text("one\ntwo\nthree\n")
    (folder / "data.bin").write_bytes(b"\0\1")
    (folder / "link.txt").symlink_to(outside)
    async with open_desk(tmp_path / "home", read_folders=[str(folder)]) as desk:
        piece = await answer(desk, "read_file", path="a.txt", offset=1, limit=1)
        assert ("two\n", 2) == (piece["text"], piece["next_offset"])
        piece = await answer(desk, "read_file", path=str(folder / "a.txt"), offset=2)
        assert ("three\n", None) == (piece["text"], piece["next_offset"])
        for path in (
            "link.txt",
            "../secret.txt",
            str(outside),
            "/etc/passwd",
            "/proc/self/environ",
        ):
            assert "outside the folders" in await error(desk, "read_file", path=path), path
        assert "is no text" in await error(desk, "read_file", path="data.bin")
        assert "No such file" in await error(desk, "read_file", path="b.txt")
        assert "is no file" in await error(desk, "read_file", path=".")
    async with open_desk(tmp_path / "home") as desk:
        assert "skills.read_folders" in await error(desk, "read_file", path="a.txt")


def write_examples(folder: Path) -> None:
    """The examples of the docs, as files."""
    folder.mkdir(parents=True)
    for name, text in EXAMPLE.findall(DOCS.read_text(encoding="utf-8")):
        (folder / name).write_text(text)
    (folder / "count.sh").chmod(0o755)


async def test_the_examples_of_the_docs_work(tmp_path: Path) -> None:
    """All manifests are good, and what can run here answers as the docs say."""
    write_examples(tmp_path / "skills")
    async with open_desk(tmp_path) as desk:
        assert [] == desk.broken
        greeting = await answer(desk, "greet", name="Ada", times=2)
        assert {"greeting": "Hello, Ada! Hello, Ada!"} == greeting
        assert {"words": 3} == await answer(desk, "count_words", text="$(date) is -not")
        review = await answer(desk, "review", code="x = 1")
        assert "Review this Python code. Be brief.\n\nx = 1" == review
        outcome = await call(desk, "lights", room="hall", is_on=True)
        assert outcome.requires_approval


async def test_what_functions_do_wrong_is_told(tmp_path: Path) -> None:
    """An exception, a value that is no JSON, a missing module: one sentence each."""
    source = """
import sys
def f(what):
    print("noise on standard output")
    if what == "raise":
        raise ValueError("no such city")
    if what == "other":
        raise KeyError("x")
    if what == "exit":
        sys.exit(3)
    return object() if what == "object" else {"args": sys.argv[1:]}
"""
    write_function(tmp_path, source, input_schema={"properties": {"what": {"type": "string"}}})
    write_skill(tmp_path, "gone", kind="entrypoint", entrypoint="nowhere:f")
    async with open_desk(tmp_path) as desk:
        assert {"args": []} == await answer(desk, "f", what="")
        assert "no such city" == await error(desk, "f", what="raise")
        assert "KeyError" in await error(desk, "f", what="other")
        assert "" != await error(desk, "f", what="exit")
        assert "JSON" in await error(desk, "f", what="object")
        assert "nowhere" in await error(desk, "gone")


async def test_programs_get_their_arguments_and_no_shell(tmp_path: Path) -> None:
    """As words and on standard input; exit status and standard error make the failure."""
    script = tmp_path / "skills" / "tool.sh"
    schema = {"properties": {"a": {"type": "string"}}}
    argv = ["tool.sh", "{a}"]
    write_skill(tmp_path, "tool", kind="command", command=argv, input_schema=schema)
    script.write_text(
        '#!/bin/sh\nread line\n[ "$1" = no ] && { echo why >&2; exit 3; }\necho "$1 $line"\n'
    )
    script.chmod(0o755)
    write_skill(tmp_path, "missing", kind="command", command=["no-such-program"])
    async with open_desk(tmp_path) as desk:
        assert '$(id); `id` {"a":"$(id); `id`"}\n' == await answer(desk, "tool", a="$(id); `id`")
        assert "exited with status 3: why" == await error(desk, "tool", a="no")
        assert "no-such-program" in await error(desk, "missing")


async def test_templates_are_bounded(tmp_path: Path) -> None:
    """A template that never ends, or that reaches for Python, ends as a failure."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
    write_skill(tmp_path, "endless", kind="prompt", template=loops, timeout_s=1)
    write_skill(tmp_path, "reach", kind="prompt", template="{{ ''.__class__.__mro__ }}")
    write_skill(tmp_path, "name", kind="prompt", template="{{ nobody }}")
    async with open_desk(tmp_path) as desk:
        outcome = await call(desk, "endless")
        assert not outcome.ok
        assert outcome.duration_ms < 5000
        assert "cannot be rendered" in await error(desk, "reach")
        assert "'nobody' is undefined" in await error(desk, "name")


async def test_a_skill_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """By its own limit or by the caller's, and the outcome says so."""
    write_function(tmp_path, "import time\ndef f(): time.sleep(60)\n", timeout_s=30)
    async with open_desk(tmp_path) as desk:
        await desk.call(desk.find("echo"), {"text": "finds out what contains runs"})
        outcome = await desk.call(desk.find("f"), {}, timeout_s=0.5)
        assert (False, True) == (outcome.ok, outcome.timed_out)
        assert outcome.duration_ms < 3000


async def test_a_caller_that_leaves_ends_its_run(tmp_path: Path) -> None:
    """Within half a second, with every process; the audit file says that it was cancelled."""
    started = tmp_path / "out" / "started"
    started.parent.mkdir()
    source = f"import time\ndef f():\n open({str(started)!r}, 'w').close()\n time.sleep(60)\n"
    grants = {"files": [f"{started.parent}:rw"]}
    write_function(tmp_path, source, permissions=grants)
    home = tmp_path / "home"
    async with open_desk(home, folders=[str(tmp_path / "skills")]) as desk:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.call, desk.find("f"), {})
            await wait_until(started.exists)
            left_s = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - left_s < 0.5
        assert "hi" == await answer(desk, "echo", text="hi")
    lines = [json.loads(line) for line in (home / "logs" / "skills.jsonl").read_text().splitlines()]
    assert ["cancelled", "ok"] == [line["outcome"] for line in lines]
    assert "hi" not in str(lines)
    assert 0o600 == (home / "logs" / "skills.jsonl").stat().st_mode & 0o777


async def test_manifests_are_followed(tmp_path: Path) -> None:
    """A new file is a skill, a broken one keeps its last, a removed one ends it."""
    async with open_desk(tmp_path) as desk:

        def descriptions() -> list[str]:
            return [one.description for one in desk.list() if one.namespace == "local"]

        def saved(text: str) -> None:
            fresh = write_skill(tmp_path, "fresh", kind="prompt", template="x", description=text)
            fresh.replace(tmp_path / "skills" / "s.yaml")

        before_s = desk.changed_s
        saved("one")
        await wait_until(lambda: ["one"] == descriptions())
        assert before_s < desk.changed_s
        saved("two")
        await wait_until(lambda: ["two"] == descriptions())
        path = tmp_path / "skills" / "s.yaml"
        path.write_text("schema: [")
        await wait_until(lambda: [str(path)] == [one.path for one in desk.broken])
        assert ["two"] == descriptions()
        path.unlink()
        await wait_until(lambda: [] == descriptions() and not desk.broken)


async def test_switched_off_there_are_none(tmp_path: Path) -> None:
    """No skill is listed, and nothing is read."""
    write_skill(tmp_path, "s", kind="prompt", template="x")
    async with open_desk(tmp_path, enabled=False) as desk:
        assert ([], []) == (desk.list(), desk.broken)


Reply = tuple[str, dict[str, str], bytes]


@asynccontextmanager
async def open_service(
    answers: Callable[[str, bytes], Reply],
) -> AsyncIterator[tuple[str, list[str]]]:
    """A web service on loopback: its address, and the heads of the requests it got."""
    heads: list[str] = []

    async def handle(stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        length = re.search(r"content-length: (\d+)", text, re.IGNORECASE)
        while length and len(body) < int(length[1]):
            body += await stream.receive_some()
        heads.append(text)
        status, headers, content = answers(text.split(" ")[1], body)
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + content)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", heads
        nursery.cancel_scope.cancel()


def respond(path: str, body: bytes) -> Reply:
    """What the service answers, by path."""
    as_json = {"content-type": "application/json"}
    replies: dict[str, Reply] = {
        "/echo": ("200 OK", as_json, b'{"got": ' + (body or b"null") + b"}"),
        "/text": ("200 OK", {"content-type": "text/plain; charset=latin-1"}, b"\xe9"),
        "/bad": ("500 Oops", {"content-type": "text/plain"}, b"it broke"),
        "/lies": ("200 OK", as_json, b"{"),
        "/away": ("302 Found", {"location": "http://localhost:9/"}, b""),
        "/there": ("307 Again", {"location": "/echo"}, b""),
        "/loop": ("302 Found", {"location": "/loop"}, b""),
        "/huge": ("200 OK", {"content-type": "text/plain"}, b"x" * 10_000),
        "/page": ("200 OK", {"content-type": "text/html"}, b"<title>T</title><p>a<p>b"),
        "/picture": ("200 OK", {"content-type": "image/png"}, b"\x89PNG"),
        "/to-page": ("301 Moved", {"location": "page"}, b""),
        "/bomb": ("200 OK", {"content-encoding": "gzip"}, gzip.compress(bytes(20_000_000))),
        "/zstd": ("200 OK", {"content-encoding": "zstd"}, b"x"),
    }
    return replies[path.partition("?")[0]]


async def test_web_services_are_called(tmp_path: Path) -> None:
    """Arguments go as JSON or query, headers have variables, and every fault is a sentence."""
    schema = {"properties": {"a": {}}}
    async with open_service(respond) as (url, heads):
        for path in ("echo", "text", "bad", "lies", "away", "there", "loop", "huge"):
            write_skill(
                tmp_path,
                path,
                kind="http",
                namespace="web",
                http={"url": f"{url}/{path}", "headers": {"x-key": "k ${TOKEN}"}},
                permissions={"network": True, "env": ["TOKEN"]},
                input_schema=schema,
            )
        write_skill(
            tmp_path,
            "get",
            kind="http",
            http={"url": f"{url}/echo", "method": "GET"},
            permissions={"network": True},
            input_schema=schema,
        )
        environment = {"TOKEN": "t-1"}
        async with open_desk(tmp_path, environment=environment, max_output_bytes=5000) as desk:
            assert {"got": {"a": 1}} == await answer(desk, "web/echo", a=1)
            assert "x-key: k t-1" in heads[-1]
            assert {"got": None} == await answer(desk, "get", a="x y&z")
            assert heads[-1].startswith("GET /echo?a=x+y%26z HTTP/1.1")
            assert "é" == await answer(desk, "web/text")
            assert "HTTP 500: it broke" == await error(desk, "web/bad")
            assert "is not" in await error(desk, "web/lies")
            assert "another host" in await error(desk, "web/away")
            assert {"got": {"a": 1}} == await answer(desk, "web/there", a=1)
            assert "redirects" in await error(desk, "web/loop")
            assert "more than 5000 bytes" in await error(desk, "web/huge")


async def test_pages_are_read_as_text() -> None:
    """Redirects are followed, markup is left out, and what is no text or too long is said."""
    with trio.fail_after(20):
        async with open_service(respond) as (url, _heads):

            async def read(path: str) -> dict[str, Any]:
                read = partial(read_page, f"{url}/{path}", 5, timeout_s=10, is_public_only=False)
                return await trio.to_thread.run_sync(read)

            page = {"url": f"{url}/page", "title": "T", "text": "a\nb", "is_cut": False}
            assert page == await read("to-page")
            assert (True, "\0" * 5) == operator.itemgetter("is_cut", "text")(await read("bomb"))
            for path, message in [("picture", "no text"), ("bad", "HTTP 500"), ("zstd", "packed")]:
                with pytest.raises(ValueError, match=message):
                    await read(path)


async def test_fetch_url_is_for_the_public_web(tmp_path: Path) -> None:
    """It does not exist unless switched on, and never reaches this machine."""
    async with open_service(respond) as (url, heads):
        async with open_desk(tmp_path, fetch_url=True) as desk:
            for address in (f"{url}/page", url.replace("127.0.0.1", "localhost"), "http://[::1]/"):
                assert "no public address" in await error(desk, "fetch_url", url=address)
            assert "starts with" in await error(desk, "fetch_url", url="file:///etc/passwd")
            assert [] == heads
        async with open_desk(tmp_path) as desk:
            assert "fetch_url" not in [one.name for one in desk.list()]
