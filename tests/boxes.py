"""Boxes for tests, and proof that a run has left nothing: no process, directory or descriptor."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from lmx.skills.box.capability import Mechanism, detect_capability
from lmx.skills.box.plan import BoxCapability, BoxPlan, BoxResult, Limits
from lmx.skills.box.runner import Box
from lmx.skills.manifest import Permissions
from tests import hostile_skill
from tests.chat_client import wait_until

LIMIT_S = 20.0
LAUNCHER = b"lmx.skills.box.child.main"
ENVIRONMENT = {"CITY": "Oslo", "LMX_SECURITY__API_KEYS": "secret", "OTHER": "unasked"}


async def detect(*without: Mechanism) -> BoxCapability:
    """What this machine has, less some of it."""
    with trio.fail_after(LIMIT_S):
        return await detect_capability(without)


class BoxSite:
    """A box with its own directories, and the hostile skill in a folder of its home.

    Attributes:
        box: The box.
        home: The daemon's home; ``config.yaml`` in it holds a key.
        folder: The skill's folder.
        temp_parent: Where temporary directories are made.
    """

    def __init__(self, top: Path, capability: BoxCapability) -> None:
        self.home = top / "home"
        self.folder = self.home / "skills" / "hostile"
        self.temp_parent = top / "temporary"
        self.folder.mkdir(parents=True)
        self.temp_parent.mkdir()
        (self.home / "config.yaml").write_text("security: {api_keys: [secret]}")
        shutil.copy(hostile_skill.__file__, self.folder / "hostile.py")
        self.box = Box(
            capability, home=self.home, environment=ENVIRONMENT, temp_parent=self.temp_parent
        )

    def plan(
        self,
        function: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        permissions: Permissions | None = None,
        **limits: Any,
    ) -> BoxPlan:
        """A plan to call one of the hostile functions."""
        return BoxPlan(
            entrypoint=f"hostile:{function}",
            arguments=dict(arguments or {}),
            folder=str(self.folder),
            permissions=permissions or Permissions(),
            limits=Limits(**limits),
        )

    async def run(self, plan: BoxPlan) -> BoxResult:
        """Run it, bounded, and check that nothing is left."""
        open_before = count_descriptors()
        with trio.fail_after(LIMIT_S):
            result = await self.box.run(plan)
        await self.check_nothing_left()
        assert open_before == count_descriptors()
        return result

    async def check_nothing_left(self) -> None:
        """No process and no directory of any run is there."""
        assert [] == box_processes(children_of=os.getpid())
        with trio.fail_after(LIMIT_S):  # a large directory goes in the background
            await wait_until(lambda: not list(self.temp_parent.iterdir()))


def run_for_ever(top: str, *without: Mechanism) -> None:
    """What a process does that is killed: one run without an end."""

    async def run() -> None:
        site = BoxSite(Path(top), await detect(*without))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.box.run, site.plan("spin", {"shield": True}))
            await wait_until(lambda: len(box_processes()) > 1)
            sys.stdout.write("running")
            sys.stdout.flush()

    trio.run(run)


def count_descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def box_processes(*, children_of: int | None = None) -> list[int]:
    """Processes that boxes of this checkout have made.

    Args:
        children_of: Whose children count too, so that zombies are seen, which have no command.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
            is_launched = LAUNCHER in command and os.fsencode(Path.cwd()) in command
            if is_launched or parent == children_of:
                found.append(int(process.name))
    return found
