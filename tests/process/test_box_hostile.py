"""Whatever a skill does to its box ends within limits, reaches nothing, and leaves nothing behind.

Each test runs once with all that the machine has, and once without namespaces, as on a kernel or in
a container that forbids them.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from lmx.skills.box.capability import Mechanism
from lmx.skills.box.plan import BoxPlan, Limits
from lmx.skills.manifest import Permissions
from tests.boxes import LIMIT_S, BoxSite, box_processes, detect
from tests.chat_client import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

MB = 1_000_000
CANCEL_LIMIT_S = 0.5
EVERYTHING: tuple[Mechanism, ...] = ()
NO_NAMESPACES: tuple[Mechanism, ...] = ("namespaces",)


@pytest.fixture(params=[EVERYTHING, NO_NAMESPACES], ids=["everything", "no-namespaces"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> BoxSite:
    """A site with one of the ways to contain."""
    capability = await detect(*request.param)
    if not capability.is_contained:
        pytest.skip(capability.reason)
    return BoxSite(tmp_path, capability)


@pytest.mark.parametrize(
    ("function", "arguments", "limits", "end"),
    [
        ("spin", {"shield": True}, {"wall_s": 0.5}, "timed_out"),
        ("spin", {"shield": True}, {"cpu_s": 0.3}, "timed_out"),
        ("bomb_forks", {}, {"wall_s": 5}, "too_many_processes"),
        ("bomb_threads", {}, {"wall_s": 5}, "too_many_processes"),
        ("allocate", {"size_bytes": 10_000 * MB}, {}, "out_of_memory"),
        ("allocate_shared", {"size_bytes": 1000 * MB}, {"memory_bytes": 100 * MB}, "out_of_memory"),
        (
            "allocate_in_children",
            {"size_bytes": 60 * MB, "count": 4},
            {"memory_bytes": 100 * MB, "wall_s": 5},
            "out_of_memory",
        ),
        ("print_for_ever", {"descriptor": 1}, {}, "too_much_output"),
        ("print_for_ever", {"descriptor": 2}, {}, "too_much_output"),
        ("return_much", {"size_bytes": 20 * MB}, {}, "too_much_output"),
        ("leave_zombies", {"count": 20}, {}, "done"),
        ("leave_zombies", {"count": 500, "stay_s": 5}, {}, "too_many_processes"),
        ("leave_daemon", {}, {}, "done"),
        ("crash", {"how": "abort"}, {}, "crashed"),
        ("crash", {"how": "segfault"}, {}, "crashed"),
        ("crash", {"how": "exit"}, {}, "raised"),
        ("crash", {"how": "sys.exit"}, {}, "raised"),
        ("crash", {"how": "raise"}, {}, "raised"),
        ("fill_folder", {"depth": 200, "files": 500}, {}, "done"),
        ("fill_disk", {"size_bytes": 20 * MB}, {"file_bytes": 5 * MB}, "raised"),
        ("lie_about_result", {}, {}, "raised"),
        ("attempt", {"unknown": 1}, {}, "raised"),
        ("missing", {}, {}, "raised"),
    ],
)
async def test_harm_ends_within_limits(
    site: BoxSite, function: str, arguments: dict[str, object], limits: dict[str, float], end: str
) -> None:
    """Each ends as it should, and nothing of it is there afterwards."""
    result = await site.run(site.plan(function, arguments, **limits))
    assert end == result.end, result
    assert len(result.stdout) <= Limits().output_bytes >= len(result.stderr)


async def test_a_program_cannot_leave_either(site: BoxSite) -> None:
    """A shell's background processes end with it; so does one that stops itself."""
    script = "(setsid sleep 98765 &) ; sleep 98764 & kill -STOP $$"
    result = await site.run(BoxPlan(argv=("sh", "-c", script), limits=Limits(wall_s=0.5)))
    assert "timed_out" == result.end
    result = await site.run(BoxPlan(argv=("sh", "-c", "setsid sleep 98765 & echo started")))
    assert ("done", b"started\n") == (result.end, result.stdout)


async def test_cancelling_ends_it_at_once(site: BoxSite) -> None:
    """However deaf a run is, its tree is gone soon after the scope is cancelled."""
    for function in ("spin", "leave_daemon", "bomb_forks"):
        plan = site.plan(function, {"shield": True} if function == "spin" else {}, processes=5000)
        with trio.move_on_after(0.4) as scope:
            await site.box.run(plan)
        if scope.cancelled_caught:
            assert trio.current_time() - scope.deadline < CANCEL_LIMIT_S
        await site.check_nothing_left()


async def test_cancelling_early_leaves_nothing(site: BoxSite) -> None:
    """At whatever moment of its start a run is cancelled."""
    for step in range(12):
        with trio.move_on_after(step * 0.008):
            await site.box.run(site.plan("sleep"))
        await site.check_nothing_left()


async def test_a_killed_daemon_takes_its_runs_along(site: BoxSite) -> None:
    """Whoever runs a plan may be killed at any time: the run ends with its socket."""
    source = "import sys, tests.boxes; tests.boxes.run_for_ever(*sys.argv[1:])"
    top = site.home.parent / "other"
    without = () if site.box.capability.namespaces else ("namespaces",)
    command = [sys.executable, "-c", source, str(top), *without]
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            async with process.stdout:
                assert b"running" == (await process.stdout.receive_some()).strip()
            assert [] != box_processes()
        finally:
            process.kill()
            with trio.move_on_after(LIMIT_S, shield=True):
                await process.wait()
        await wait_until(lambda: [] == box_processes())


async def test_no_descriptor_is_passed_on(site: BoxSite) -> None:
    """A function has the three standard streams and the pipe for its result; a program three."""
    result = await site.run(site.plan("descriptors"))
    assert 4 == len(result.value)
    result = await site.run(BoxPlan(argv=("sh", "-c", "for i in 3 4 5 6 7 8 9; do : >&$i; done")))
    assert 0 != result.status


async def test_files_outside_cannot_be_reached(site: BoxSite, tmp_path: Path) -> None:
    """Neither directly nor by links, parents, processes or programs; and none is changed."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (site.folder / "link").symlink_to(secret)
    (site.folder / "up").symlink_to("../../config.yaml")
    config = str(site.home / "config.yaml")
    ways = [
        *(("read", path) for path in (str(secret), config, "/etc/shadow", "/etc/passwd")),
        *(("read", str(site.folder / name)) for name in ("link", "up")),
        *((f"read {how}", config) for how in ("through a link", "through a hard link")),
        *((f"read {how}", config) for how in ("through the root", "upwards", "in a program")),
        *(
            ("read", f"/proc/{pid}/{name}")
            for pid in (1, os.getpid())
            for name in ("environ", "mem")
        ),
        *(("read", path) for path in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/proc/kcore")),
        *(("write", path) for path in (str(secret), config, str(site.folder / "hostile.py"))),
        *(("write", path) for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger")),
        *(("write", str(Path(path) / "new")) for path in (tmp_path, "/usr", "/etc", "/var")),
        *(("list", path) for path in (str(tmp_path), str(site.home), "/home", "/root", "/var")),
        *((how, str(secret)) for how in ("truncate", "remove", "change mode")),
        *((how, str(site.folder / "hostile.py")) for how in ("truncate", "remove", "change mode")),
        ("make a folder", str(tmp_path / "folder")),
        ("make a folder", str(site.folder / "folder")),
    ]
    result = await site.run(site.plan("attempt", {"ways": ways}))
    assert "done" == result.end, result
    reached = [way for way, word in zip(ways, result.value, strict=True) if "Error" not in word]
    assert [] == reached
    assert ("secret", 0o100644) == (secret.read_text(), secret.stat().st_mode)


async def test_permitted_files_are_what_was_permitted(site: BoxSite, tmp_path: Path) -> None:
    """A folder for reading is read and not written; one for writing is both."""
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    files = (str(tmp_path / "in"), f"{tmp_path / 'out'}:rw")
    ways = [
        *((how, str(tmp_path / "in" / "file")) for how in ("read", "write", "truncate", "remove")),
        *((how, str(tmp_path / "out" / "file")) for how in ("read", "write", "truncate", "remove")),
        ("write", "own"),
        ("make a folder", str(tmp_path / "out" / "folder")),
        ("change mode", "/dev/null"),
    ]
    plan = site.plan("attempt", {"ways": ways}, permissions=Permissions(files=files))
    result = await site.run(plan)
    refused = ["Error" in word for word in result.value]
    assert [False, True, True, True, False, False, False, False, False, False, True] == refused
    assert "text" == (tmp_path / "in" / "file").read_text()
    assert ["folder"] == [path.name for path in (tmp_path / "out").iterdir()]


async def test_no_network_without_permission(site: BoxSite, tmp_path: Path) -> None:
    """Neither this machine's ports, nor datagrams, nor sockets in files, nor abstract ones."""
    path = tmp_path / "socket"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as letters,
    ):
        letters.bind(str(tmp_path / "letters"))
        local.bind(str(path))
        local.listen()
        abstract.bind(f"\0{path}")
        abstract.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ways = [
            ("connect", address),
            ("send a datagram", address),
            ("connect to a unix socket", str(path)),
            ("connect to a unix socket", f"@{path}"),
            ("send through a pair", str(letters.getsockname())),
        ]
        result = await site.run(site.plan("attempt", {"ways": ways}))
        assert all("Error" in word for word in result.value), result.value
        allowed = Permissions(network=True, files=(str(path),))
        result = await site.run(site.plan("attempt", {"ways": ways}, permissions=allowed))
        assert ["done", "done"] == result.value[:2]
        assert all("Error" in word for word in result.value[2:]), result.value


async def test_other_processes_and_the_kernel_are_out_of_reach(site: BoxSite) -> None:
    """Nothing outside is killed or limited, no namespace entered, no privilege regained."""
    pid = os.getpid()
    numbers = {"x86_64": (425, 101, 272, 319), "aarch64": (425, 117, 97, 279)}[os.uname().machine]
    io_uring, ptrace, unshare, memfd = numbers
    ways = [
        ("kill", str(pid)),
        ("kill", str(os.getppid())),
        ("limit", str(pid)),
        ("call", f"{io_uring} 8 0"),
        ("call", f"{ptrace} 16 {pid} 0 0"),
        ("call", f"{unshare} 0x10020000"),
        ("call", f"{memfd} 0 0"),
        ("become root", ""),
    ]
    result = await site.run(site.plan("attempt", {"ways": ways}))
    assert all("Error" in word for word in result.value), result.value


async def test_the_environment_is_bare(site: BoxSite) -> None:
    """Only what every program needs, and what was asked for by name."""
    plan = site.plan("show_environment", permissions=Permissions(env=("CITY", "UNSET")))
    result = await site.run(plan)
    kernel = result.value.pop("(kernel)", "")
    assert {"PATH", "LANG", "HOME", "TMPDIR", "CITY"} == set(result.value)
    assert "secret" not in kernel
    assert "unasked" not in kernel


async def test_open_files_are_limited(site: BoxSite) -> None:
    """A process opens no more than its limit."""
    result = await site.run(site.plan("open_many", open_files=40))
    assert 20 < result.value < 40
