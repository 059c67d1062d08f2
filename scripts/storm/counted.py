"""The daemon with a way to ask how many tasks it has: a line on stdin, a number on stdout.

    python -m scripts.storm.counted serve --host H --port P --model M ...

It runs the same composition root as ``lmx serve``; nothing of it is replaced.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial

import trio

from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.cli.logs import open_log
from lmx.daemon.instance import hold_instance
from lmx.daemon.live import LiveSettings, SettingsSource
from lmx.daemon.log_tail import LogTail
from lmx.daemon.presence import Presence
from lmx.daemon.supervision import Notifier
from lmx.serve import serve


async def run(
    live: LiveSettings, specs: Sequence[ModelSpec], *, presence: Presence, log_tail: LogTail
) -> None:
    """The daemon, until it is told to stop."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await serve(live, specs, presence=presence, log_tail=log_tail)
        nursery.cancel_scope.cancel()


async def answer() -> None:
    """Say how many tasks there are, each time somebody asks."""
    async with trio.lowlevel.FdStream(os.dup(0)) as asked, trio.lowlevel.FdStream(os.dup(1)) as out:
        async for data in asked:
            for _ in range(data.count(b"\n")):
                await out.send_all(b"%d\n" % trio.lowlevel.current_statistics().tasks_living)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", default=[])
    options = parser.parse_args()
    source = SettingsSource(overrides={"server": {"host": options.host, "port": options.port}})
    settings = source.load()
    log_tail = LogTail()
    specs = [parse_spec(text) for text in options.model]
    with (
        hold_instance(settings.home, wait_s=0) as instance,
        open_log(settings.logging, log_tail) as control,
    ):
        live = LiveSettings(source, settings, set_log_level=control.level.set)
        presence = Presence(instance, Notifier({}))
        trio.run(partial(run, live, specs, presence=presence, log_tail=log_tail))


if __name__ == "__main__":
    main()
