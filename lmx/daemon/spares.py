"""Starting workers, one ahead: a spare process has done its imports before anybody needs it.

The spare prepares for the engine that was used last. It is started only after a first real load,
so that a daemon that serves none pays nothing. It is replaced after the load that took it, when
another engine comes into use, and some time after it died.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import structlog
import trio

from lmx.config import WorkerSettings, holds_keys
from lmx.daemon.restarts import DELAY_LIMIT_S, FIRST_DELAY_S, restart_delay_s
from lmx.daemon.worker import HasKernelKilled, Worker, open_worker
from lmx.errors import WorkerError
from lmx.protocol.messages import Prepare

WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a wrong path must never become a download
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONUNBUFFERED": "1",
}
# Unless the user set them. Threads that only spin while they wait collapse on a shared machine, and
# threads that sleep at once lose 40 % of a small model's speed in llama.cpp's barriers: a short
# spin costs neither. MLX on CUDA remembers 256 shapes of attention and ends a process that has seen
# twice as many, which a server does in a day: as an error, in the middle of an answer.
WORKER_DEFAULTS = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    "MLX_CUDA_SDPA_CACHE_SIZE": "2048",
}
# Engines whose imports take long enough to be worth a process that waits.
SLOW_TO_IMPORT = frozenset({"mlx", "llama"})

log = structlog.get_logger("lmx.spares")


class _Spare:
    """A waiting worker, and the word that its user is done with it."""

    def __init__(self, worker: Worker, engine: str) -> None:
        self.worker = worker
        self.engine = engine
        self.is_taken = False
        self.finished = trio.Event()
        self.closed = trio.Event()


class Workshop:
    """Gives out worker processes.

    Args:
        settings: How processes are stopped, and whether there is a spare.
        open_process: Starts one and ends it with the block.
        has_kernel_killed: What `open_worker` asks when a worker was killed.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        open_process: Callable[[], AbstractAsyncContextManager[Worker]] | None = None,
        *,
        has_kernel_killed: HasKernelKilled | None = None,
    ) -> None:
        self._has_spare = settings.has_spare
        self._open_process = open_process or partial(
            open_worker,
            environment=worker_environment(),
            stop_grace_s=settings.stop_grace_s,
            has_kernel_killed=has_kernel_killed,
        )
        self._pids: list[int] = []
        self._spare: _Spare | None = None
        self._wanted_engine: str | None = None
        self._wanted = trio.Event()

    @property
    def spare_pid(self) -> int | None:
        """The process id of the waiting worker."""
        return None if self._spare is None else self._spare.worker.pid

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers there are, whatever they do."""
        return list(self._pids)

    async def run(self) -> None:
        """Keep a spare at hand once an engine was used that is slow to import. Never returns."""
        failures = 0
        async with trio.open_nursery() as nursery:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                if self._spare is not None or self._wanted_engine is None:
                    continue
                try:
                    await nursery.start(self._keep, self._wanted_engine)
                    failures = 0
                except WorkerError as error:
                    failures += 1
                    log.warning("no spare worker", reason=error.message)
                    await trio.sleep(
                        restart_delay_s(failures, first_s=FIRST_DELAY_S, limit_s=DELAY_LIMIT_S)
                    )
                    self._wanted.set()

    @asynccontextmanager
    async def open(self, engine: str, *, model_id: str) -> AsyncIterator[Worker]:
        """A worker process for a model, the spare if it is prepared for the model's engine.

        Raises:
            WorkerBroken: The system refuses another process.

        Cancellation:
            The process is killed and reaped before this returns.
        """
        spare = self._spare
        if spare is None or spare.engine != engine or spare.worker.ended is not None:
            async with self._start() as worker:
                yield worker
            return
        self._spare = None
        spare.is_taken = True
        log.debug("spare worker taken", model=model_id, pid=spare.worker.pid)
        try:
            yield spare.worker
        finally:
            spare.finished.set()
            with trio.CancelScope(shield=True):
                await spare.closed.wait()

    def want_spare(self, engine: str) -> None:
        """A model of this engine came up: have a worker ready for the next one."""
        if not self._has_spare or engine not in SLOW_TO_IMPORT:
            return
        spare = self._spare
        if spare is not None and spare.engine != engine:
            self._spare = None
            spare.finished.set()
        self._wanted_engine = engine
        self._wanted.set()

    @asynccontextmanager
    async def _start(self) -> AsyncIterator[Worker]:
        async with self._open_process() as worker:
            self._pids.append(worker.pid)
            try:
                yield worker
            finally:
                self._pids.remove(worker.pid)

    async def _keep(
        self, engine: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own one spare from its start until its user is done or it ends unused."""
        spare: _Spare | None = None
        try:
            async with self._start() as worker:
                worker.link.send(Prepare(engine))
                spare = self._spare = _Spare(worker, engine)
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after_end, spare, nursery.cancel_scope)
                    await spare.finished.wait()
                    nursery.cancel_scope.cancel()
        finally:
            if spare is not None:
                spare.closed.set()
                if self._spare is spare:
                    self._spare = None
        if not spare.finished.is_set():
            log.warning("spare worker died", engine=engine)
            await trio.sleep(DELAY_LIMIT_S)
            self._wanted.set()


def worker_environment() -> dict[str, str]:
    """What a worker process starts with: no keys, for it needs none."""
    inherited = {name: text for name, text in os.environ.items() if not holds_keys(name)}
    return {**WORKER_DEFAULTS, **inherited, **WORKER_ENVIRONMENT}


async def _cancel_after_end(spare: _Spare, scope: trio.CancelScope) -> None:
    """A spare that dies unused is not waited for."""
    await spare.worker.wait_ended()
    if not spare.is_taken:
        scope.cancel()
