"""A worker that the kernel kills for want of memory is told apart from one that somebody kills."""

import os
import signal
from collections.abc import Collection

import pytest
import trio

from lmx.daemon.gauge import Gauge
from lmx.daemon.meter import Reading
from lmx.daemon.worker import WorkerExit, open_worker


class Kernel:
    """A meter that counts the kills a test says there were."""

    def __init__(self) -> None:
        self.kills = 0

    def read(self, pids: Collection[int]) -> Reading:
        """The count now."""
        return Reading(
            used_bytes=1, total_bytes=2, daemon_bytes=0, worker_bytes={}, oom_kills=self.kills
        )


async def killed(kernel: Kernel, *, by_kernel: bool) -> WorkerExit:
    """How a real worker ends that gets a SIGKILL."""
    gauge = Gauge(kernel)
    await gauge.read(())
    async with open_worker(
        environment=os.environ, stop_grace_s=1.0, has_kernel_killed=gauge.has_killed
    ) as worker:
        kernel.kills += by_kernel
        os.kill(worker.pid, signal.SIGKILL)
        return await worker.wait_ended()


@pytest.mark.parametrize("by_kernel", [False, True])
async def test_who_killed_it(by_kernel: bool) -> None:  # noqa: FBT001
    """The kind, what its requests are told, and whether they are blamed."""
    with trio.fail_after(10):
        ended = await killed(Kernel(), by_kernel=by_kernel)
    kind, code = ("oom_killed", "oom-unloaded") if by_kernel else ("killed", "worker-broken")
    assert (kind, code) == (ended.kind, ended.error().code)
    assert by_kernel is ended.may_be_a_request
    assert by_kernel is ("No model loaded" in ended.error().message)
    assert -signal.SIGKILL == ended.status
