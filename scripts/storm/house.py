"""Faults of a storm that hit no running model: loads that die, and a disk that is full."""

import time
from collections.abc import Sequence

import httpx2
import trio

from lmx.daemon.journal import journal_path
from scripts.storm.clients import post
from scripts.storm.daemon import Daemon, StormFailed
from scripts.storm.faults import full_disk
from scripts.storm.judge import Fault
from scripts.storm.plan import Planned

VISITOR = "visitor"
CRASHED_CODES = frozenset({"loader_crashed", "model_unstable"})
WARNING_LIMIT_S = 30.0
NOTED_LIMIT_S = 10.0
LOOK_S = 0.1


async def break_house(
    daemon: Daemon, http: httpx2.AsyncClient, plan: Sequence[Planned], faults: list[Fault]
) -> None:
    """Faults that are no running model's."""
    for number, planned in enumerate(plan):
        await trio.sleep(planned.chance)
        fault = Fault("", planned.kind, planned.phase, 0, time.time())
        faults.append(fault)
        try:
            if planned.kind == "full disk":
                await _fill_disk(daemon, http, number)
            else:
                await _die_loading(http, number)
        except (StormFailed, httpx2.HTTPError) as error:
            fault.detail = str(error) or type(error).__name__
        fault.recovered_s = time.time()


async def _fill_disk(daemon: Daemon, http: httpx2.AsyncClient, number: int) -> None:
    """The loaded set changes while it cannot be noted; it is once it can."""
    name = f"{VISITOR}{number}"
    with full_disk(daemon.home):
        began_s = time.time()
        await post(http, "load", f"fake:{name}?tokens=1", expected=200)
        await daemon.log.wait(
            lambda line: line.event == "the loaded set cannot be noted",
            after_s=began_s,
            limit_s=WARNING_LIMIT_S,
            what="the warning of a full disk",
        )
    await wait_noted(daemon, time.time())
    await post(http, "unload", name, expected=200)


async def _die_loading(http: httpx2.AsyncClient, number: int) -> None:
    """A model that exits in its load is refused with a reason, and bars itself."""
    name = f"{VISITOR}{number}"
    code = await post(http, "load", f"fake:{name}?fail=exit&fail_step=0", expected=409)
    if code not in CRASHED_CODES:
        raise StormFailed(f"a load that died was answered {code}")
    await post(http, "unload", name, expected=200)


async def wait_noted(daemon: Daemon, after_s: float) -> None:
    """Wait until the daemon has noted what is loaded.

    Raises:
        StormFailed: It did not in time.
    """
    journal = trio.Path(journal_path(daemon.home))
    with trio.move_on_after(NOTED_LIMIT_S):
        while (await journal.stat()).st_mtime < after_s:  # noqa: ASYNC110  # a file
            await trio.sleep(LOOK_S)
        return
    raise StormFailed("the loaded set is not noted although there is room")
