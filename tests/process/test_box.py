"""What a box runs, and what it says of it: programs, functions, limits, environment, refusals."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from lmx.skills.box.capability import detect_capability
from lmx.skills.box.plan import BoxPlan
from lmx.skills.box.removal import make_directory, remove_abandoned, remove_tree
from lmx.skills.box.runner import Box
from lmx.skills.manifest import Permissions

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


async def test_a_coroutine_is_awaited(box: Box, tmp_path: Path) -> None:
    """A function may be asynchronous, and its modules may be below its folder."""
    source = "import asyncio\nasync def wait(s):\n    await asyncio.sleep(s)\n    return [s]\n"
    folder = write_skill(tmp_path / "skill" / "deep", source)
    plan = BoxPlan(
        entrypoint="deep.skill:wait", folder=str(Path(folder).parent), arguments={"s": 0.01}
    )
    with trio.fail_after(LIMIT_S):
        result = await box.run(plan)
    assert ("done", [0.01]) == (result.end, result.value)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def run():\n    raise ValueError('no')\n", "ValueError: no"),
        ("def run():\n    return {1, 2}\n", "TypeError: Object of type set is not JSON"),
        ("def run():\n    return float('nan')\n", "ValueError: Out of range float values"),
        ("import missing_module\n", "ModuleNotFoundError: No module named 'missing_module'"),
        ("def run(x):\n    pass\n", "TypeError: run() missing 1 required positional argument"),
        ("def walk():\n    pass\n", "AttributeError: module 'skill' has no attribute 'run'"),
        ("def run(:\n", "SyntaxError: invalid syntax"),
    ],
)
async def test_what_a_function_raises_is_told(
    box: Box, tmp_path: Path, source: str, error: str
) -> None:
    """The error by its name and text; the trace is on standard error."""
    folder = write_skill(tmp_path / "skill", source)
    with trio.fail_after(LIMIT_S):
        result = await box.run(BoxPlan(entrypoint="skill:run", folder=folder))
    assert "raised" == result.end
    assert result.error is not None
    assert result.error.startswith(error)
    assert error.partition(":")[0].encode() in result.stderr


async def test_a_program_of_the_folder_comes_first(box: Box, tmp_path: Path) -> None:
    """A name is looked for in the folder, then on the path; one that is nowhere is refused."""
    folder = Path(write_skill(tmp_path / "skill", ""))
    (folder / "uname").write_text("#!/bin/sh\necho own $1\n")
    (folder / "uname").chmod(0o755)
    with trio.fail_after(LIMIT_S):
        for name in ("uname", "./uname"):
            result = await box.run(BoxPlan(argv=(name, "x"), folder=str(folder)))
            assert b"own x\n" == result.stdout
        result = await box.run(BoxPlan(argv=("uname",)))
        assert os.uname().sysname == result.stdout.decode().strip()
        result = await box.run(BoxPlan(argv=("no-such-program",)))
        (tmp_path / "link").symlink_to("/bin/echo")
        linked = await box.run(BoxPlan(argv=(str(tmp_path / "link"), "through a link")))
    assert b"through a link\n" == linked.stdout, linked
    assert ("refused", "the program 'no-such-program' was not found") == (result.end, result.error)


async def test_a_secret_is_one_by_any_name(box: Box, tmp_path: Path) -> None:
    """A second name of a configuration file grants nothing."""
    (tmp_path / "config.yaml").write_text("keys")
    (tmp_path / "folder").mkdir()
    twin = tmp_path / "folder" / "twin"
    twin.hardlink_to(tmp_path / "config.yaml")
    guarded = Box(box.capability, secrets=[tmp_path / "config.yaml"])
    plan = BoxPlan(argv=("true",), permissions=Permissions(files=(str(twin),)))
    with trio.fail_after(LIMIT_S):
        assert "LMX's own" in str((await guarded.run(plan)).error)


async def test_what_cannot_be_granted_is_refused(box: Box, tmp_path: Path) -> None:
    """LMX's own files and variables, the kernel's files, and paths that do not exist."""
    home = tmp_path / "home"
    (home / "skills").mkdir(parents=True)
    (home / "config.yaml").write_text("keys")
    (tmp_path / "link").symlink_to(home)
    refused = {
        str(home): "would show what is LMX's own",
        str(home / "config.yaml"): "would show what is LMX's own",
        str(tmp_path): "would show what is LMX's own",
        f"{tmp_path / 'link'}:rw": "would show what is LMX's own",
        str(home / "skills" / ".." / "config.yaml"): "would show what is LMX's own",
        "/": "is not for skills",
        "/proc/1": "is not for skills",
        "relative": "is not an absolute path",
        "/no/such/path": "does not exist",
    }
    with trio.fail_after(LIMIT_S):
        for path, reason in refused.items():
            plan = BoxPlan(argv=("true",), permissions=Permissions(files=(path,)))
            result = await box.run(plan)
            assert "refused" == result.end, path
            assert reason in str(result.error)
        for name in ("LMX_SECURITY__API_KEYS", "lmx_home", "OPTA_KEY"):
            plan = BoxPlan(argv=("true",), permissions=Permissions(env=(name,)))
            assert f"env: {name} is LMX's own" == (await box.run(plan)).error
        plan = BoxPlan(argv=("true",), permissions=Permissions(files=(str(home / "skills"),)))
        assert (await box.run(plan)).is_good


async def test_secrets_within_the_system_are_hidden(box: Box) -> None:
    """A configuration among the programs' own files is not seen; without a way, nothing runs."""
    secret, file = Path("/usr/share"), Path("/etc/hosts")
    with trio.fail_after(LIMIT_S):
        hiding = Box(box.capability, secrets=[secret, file])
        result = await hiding.run(BoxPlan(argv=("ls", str(secret))))
        shown = await hiding.run(BoxPlan(argv=("cat", str(file))))
        if box.capability.namespaces:
            assert (0, b"") == (result.status, result.stdout)
            assert b"" == shown.stdout
        without = replace(box.capability, namespaces=False, seatbelt=False)
        result = await Box(without, secrets=[secret]).run(BoxPlan(argv=("true",)))
    assert "refused" == result.end
    assert f"nothing on this machine keeps {secret} from skills" == result.error


def test_what_a_killed_daemon_left_is_removed(tmp_path: Path) -> None:
    """An old directory of a process that is gone goes; a new one, and one of ours, stays."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    names = [f"lmx-run-{ended.pid}-old", f"lmx-run-{ended.pid}-new", f"lmx-run-{os.getpid()}-old"]
    for name in names:
        (tmp_path / name / "deep").mkdir(parents=True)
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))
    made = make_directory(tmp_path)
    assert 0o700 == made.stat().st_mode & 0o777
    remove_abandoned(tmp_path)
    assert sorted([*names[1:], made.name]) == sorted(path.name for path in tmp_path.iterdir())


async def test_what_is_detected_can_be_forced_off() -> None:
    """Without its mechanisms a machine says that it contains nothing, and why."""
    with trio.fail_after(LIMIT_S):
        nothing = await detect_capability(("namespaces", "landlock", "seccomp", "seatbelt"))
        result = await Box(nothing).run(BoxPlan(argv=("true",)))
    assert not nothing.is_contained
    assert "not contained" in nothing.reason
    assert result.is_good


def test_a_deep_and_locked_folder_is_removed(tmp_path: Path) -> None:
    """Deeper than Python recurses and than a path may be long; links are not followed."""
    shared = Path("/dev/shm")  # noqa: S108 - in memory, where thousands of folders cost little
    top = Path(tempfile.mkdtemp(dir=shared if shared.exists() else tmp_path))
    kept = tmp_path / "kept"
    kept.write_text("kept")
    (top / "link").symlink_to(tmp_path)
    (top / "lmx-0").mkdir()
    (top / "lmx-0" / "file").write_text("in the way")
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 200, dir_fd=descriptor)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.mkdir("locked", 0, dir_fd=descriptor)
    os.close(descriptor)
    top.chmod(0)
    remove_tree(top)
    assert not top.exists()
    assert "kept" == kept.read_text()
