"""What a box runs, and what it says of it: programs, functions, limits, environment, refusals."""

from pathlib import Path

import pytest
import trio

from lmx.skills.box.capability import detect_capability
from lmx.skills.box.plan import BoxPlan
from lmx.skills.box.runner import Box

LIMIT_S = 20.0


@pytest.fixture
async def box(tmp_path: Path) -> Box:
    """A box with whatever this machine has."""
    environment = {"CITY": "Oslo", "LMX_SECURITY__API_KEYS": "secret", "HIDDEN": "yes"}
    with trio.fail_after(LIMIT_S):
        capability = await detect_capability()
    return Box(capability, home=tmp_path / "home", environment=environment)


def write_skill(folder: Path, source: str) -> str:
    """A folder with the module ``skill``; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "skill.py").write_text(source)
    return str(folder)


async def test_a_program_runs_with_its_input(box: Box) -> None:
    """Arguments go to the program as they are, input comes in, output and status come back."""
    plan = BoxPlan(argv=("sh", "-c", 'cat; echo "$0"; echo no >&2; exit 3', "$HOME"), stdin=b"in\n")
    with trio.fail_after(LIMIT_S):
        result = await box.run(plan)
    assert ("done", 3, b"in\n$HOME\n", b"no\n") == (
        result.end,
        result.status,
        result.stdout,
        result.stderr,
    )
    assert "exited with status 3" == result.error


async def test_a_function_is_called_by_name(box: Box, tmp_path: Path) -> None:
    """Arguments come by name; the value comes back as JSON, apart from what is printed."""
    source = "def add(a, b):\n    print('hello')\n    return {'sum': a + b}\n"
    folder = write_skill(tmp_path / "skill", source)
    plan = BoxPlan(entrypoint="skill:add", folder=folder, arguments={"a": 2, "b": 3})
    with trio.fail_after(LIMIT_S):
        result = await box.run(plan)
    assert ("done", {"sum": 5}, b"hello\n") == (result.end, result.value, result.stdout)
    assert result.is_good
