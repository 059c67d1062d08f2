"""From a manifest and arguments to a plan of the box, and back to an outcome."""

from typing import Any

import pytest

from lmx.config import SkillSettings
from lmx.errors import InvalidRequest
from lmx.skills.box.plan import BoxResult
from lmx.skills.manifest import HttpCall, Manifest, Permissions
from lmx.skills.packaged import grant
from lmx.skills.plans import fill_command, plan_run, to_outcome
from tests.skill_parts import function

SETTINGS = SkillSettings(max_output_bytes=5000, read_folders=("/data",))


def command(*argv: str) -> Manifest:
    """A skill that is a program."""
    return Manifest(name="c", kind="command", command=argv, path="/skills")


@pytest.mark.parametrize(
    ("argv", "arguments", "filled"),
    [
        (["p", "{a}"], {"a": "x y; $(z)"}, ("p", "x y; $(z)")),
        (["p", "--a={a}"], {"a": 5}, ("p", "--a=5")),
        (["p", "{a}", "b"], {}, ("p", "b")),
        (["p", "--a={a}"], {}, ("p", "--a=")),
        (["p", "{a}"], {"a": None}, ("p",)),
        (["p", "{a}"], {"a": True}, ("p", "true")),
        (["p", "{a}"], {"a": [1, {"b": "é"}]}, ("p", '[1,{"b":"é"}]')),
        (["p", "{{a}}", "{a}{a}"], {"a": "{b}"}, ("p", "{a}", "{b}{b}")),
        (["p", "{a}"], {"a": ""}, ("p", "")),
    ],
)
def test_arguments_take_their_places(
    argv: list[str], arguments: dict[str, Any], filled: tuple[str, ...]
) -> None:
    """One place is one argument whatever it holds; a missing one leaves no empty element."""
    assert filled == fill_command(command(*argv), arguments)


def test_a_nul_is_refused() -> None:
    """No program could be given it."""
    with pytest.raises(InvalidRequest, match=r"arguments\.a"):
        fill_command(command("p", "{a}"), {"a": "x\0"})


def plan(manifest: Manifest, arguments: dict[str, Any]) -> Any:
    """The plan of a call with ten seconds."""
    return plan_run(manifest, arguments, SETTINGS, timeout_s=10)


def test_each_kind_has_its_plan() -> None:
    """Functions and programs from their folder, prompts and calls through LMX's own functions."""
    permissions = Permissions(network=True)
    made = plan(function(permissions=permissions), {"a": 1})
    assert ("m:f", "/skills", {"a": 1}) == (made.entrypoint, made.folder, made.arguments)
    assert (permissions, 5000) == (made.permissions, made.limits.output_bytes)
    made = plan(command("p"), {"a": 1})
    assert (("p",), "/skills", b'{"a":1}\n') == (made.argv, made.folder, made.stdin)
    made = plan(Manifest(name="p", kind="prompt", template="T"), {"a": 1})
    assert {"template": "T", "arguments": {"a": 1}} == made.arguments
    made = plan(Manifest(name="h", kind="http", http=HttpCall(url="http://x")), {"a": 1})
    assert {"url": "http://x", "method": "POST", "headers": {}} == made.arguments["call"]
    assert (5000, 10) == (made.arguments["max_bytes"], made.arguments["timeout_s"])


def test_settings_open_what_the_built_in_skills_may_do() -> None:
    """`read_file` gets its folders, `fetch_url` exists if it may, others are as they are."""
    read = function("read_file", namespace="builtin")
    fetch = function("fetch_url", namespace="builtin")
    mine = function("fetch_url")
    (granted, kept) = grant([read, fetch, mine], SETTINGS)
    assert ["files:/data"] == granted.permission_tags
    assert mine is kept
    assert {"path": "x", "folders": ["/data"]} == plan(granted, {"path": "x"}).arguments
    allowed = SkillSettings(fetch_url=True)
    assert [fetch] == grant([fetch], allowed)
    assert {"url": "x", "timeout_s": 10} == plan(fetch, {"url": "x"}).arguments


@pytest.mark.parametrize(
    ("stdout", "output"),
    [(b'{"a": 1}\n', {"a": 1}), (b"text\n", "text\n"), (b"", ""), (b"\xff", "\ufffd"), (b"5", 5)],
)
def test_a_programs_output_is_json_or_text(stdout: bytes, output: Any) -> None:
    """Whatever it writes is an answer."""
    outcome = to_outcome(command("p"), BoxResult(end="done", status=0, stdout=stdout))
    assert (True, output) == (outcome.ok, outcome.output)


def test_a_programs_failure_has_the_end_of_its_errors() -> None:
    """Exit status and standard error make the sentence; a `ValueError` is told as it stands."""
    result = BoxResult(end="done", status=3, error="exited with status 3", stderr=b"bad\n")
    assert "exited with status 3: bad" == to_outcome(command("p"), result).error
    result = BoxResult(end="raised", error="ValueError: no such city")
    assert "no such city" == to_outcome(function(), result).error
