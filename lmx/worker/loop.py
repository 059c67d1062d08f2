"""The engine thread: load, then step until told to stop. Ignores Ctrl-C; the daemon decides.

It owns the engine from load to exit and blocks on its inbox only when there is nothing to compute,
or when another worker has the device: then it waits for the lease there, and hears cancels.
An error inside a step ends the process: a batch after a failed step cannot be trusted, and process
exit is what returns all memory. The daemon reads why from the exit status and standard error.
"""

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from lmx.engines import LoadedEngine, LoadedVectors, import_engine, load_engine
from lmx.errors import LmxError, OutOfMemory, UnsupportedModel
from lmx.protocol.messages import (
    EXIT_OUT_OF_MEMORY,
    Cancel,
    Event,
    LeaseCommand,
    Load,
    Loaded,
    LoadFailed,
    Prepare,
    Shrink,
    Shutdown,
    StopThinking,
)
from lmx.protocol.values import ModelInfo
from lmx.worker.channel import Channel
from lmx.worker.intake import Intake, Served, Work
from lmx.worker.intervals import VARIABLE, IntervalLog
from lmx.worker.lease import WorkerLease
from lmx.worker.pacing import PaceSettings
from lmx.worker.scheduler import Ready, Scheduler
from lmx.worker.vector_intake import VectorsServed
from lmx.worker.vectors import VectorJob, VectorScheduler


class Stepper(Protocol):
    """What the loop needs of a scheduler. It is given the work that its own intake makes."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""

    def submit(self, work: Any, /) -> None:
        """Take a request."""

    def cancel(self, sequence: int) -> Sequence[Event]:
        """Free what an answer holds, before the next step."""

    def stop_thinking(self, sequence: int) -> None:
        """End an answer's reasoning."""

    def rest(self) -> bool:
        """Do a piece of what can wait while there is no work; whether there will be more soon."""

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Give back memory that is only kept for speed; see `Shrink`."""

    def step(self) -> Sequence[Event]:
        """One unit of device work."""


# Between two pieces of what is done in a pause.
REST_PERIOD_S = 0.02
EXIT_LOAD_FAILED = 65  # EX_DATAERR: the daemon already has the typed reason


def run_worker(connection: socket.socket) -> int:
    """The child's whole life on its main thread.

    Args:
        connection: The worker's end of the pipe.

    Returns:
        The process's exit status.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(connection)
    intake = Intake(channel)
    threading.Thread(target=_run_intake, args=(intake,), name="intake", daemon=True).start()
    while isinstance(load := intake.loads.get(), Prepare):
        with suppress(UnsupportedModel):  # the load will say so
            import_engine(load.engine)
    log = IntervalLog(os.environ.get(VARIABLE))
    with log.interval("load"):
        loaded = _load(load, channel)
    if loaded is None:
        return EXIT_LOAD_FAILED
    engine = loaded.engine
    scheduler = _serve(loaded, load, intake)
    channel.send([Loaded(engine.info, engine.memory(), loaded.notes)])
    lease = WorkerLease(is_needed=load.lease, quiesce=engine.quiesce, clock=time.monotonic)
    try:
        run_steps(intake.work, scheduler, channel.send, lease=lease, log=log)
    except OutOfMemory as error:
        sys.stderr.write(f"lmx worker: {error.message}\n")
        return EXIT_OUT_OF_MEMORY
    engine.close()
    return 0


def _serve(
    loaded: LoadedEngine | LoadedVectors, load: Load, intake: Intake
) -> Scheduler | VectorScheduler:
    """Let requests in, and give what schedules them."""
    if isinstance(loaded, LoadedVectors):
        intake.serve(VectorsServed(loaded))
        return VectorScheduler(loaded.engine, clock=time.monotonic)
    served = Served(loaded, load.dialect)
    intake.serve(served)
    gap_target_s = None if load.gap_target_ms is None else load.gap_target_ms / 1000
    return Scheduler(
        loaded.engine,
        loaded.tokenizer,
        visible=served.dialect.visible,
        clock=time.monotonic,
        cache_tokens=_cache_tokens(load, loaded.engine.info),
        pace=PaceSettings(gap_target_s, loaded.pass_samples),
    )


def _cache_tokens(load: Load, info: ModelInfo) -> int | None:
    """How many tokens the granted cache holds; llama.cpp keeps to its own cache by itself."""
    if load.kv_cache_bytes is None or not info.kv_bytes_per_token or info.engine == "llama":
        return None
    return load.kv_cache_bytes // info.kv_bytes_per_token


def _load(load: Load, channel: Channel) -> LoadedEngine | LoadedVectors | None:
    try:
        loaded = load_engine(load)
        loaded.engine.quiesce()  # before the daemon lends the device to somebody else
    except LmxError as error:
        channel.send([LoadFailed(error.code, error.message)])
    except Exception as error:  # noqa: BLE001  # any library may raise anything while loading
        traceback.print_exc()
        channel.send([LoadFailed("load-failed", f"{type(error).__name__}: {error}")])
    else:
        return loaded
    return None


def _run_intake(intake: Intake) -> None:
    """The intake thread. However it ends, so does the process: nobody else reads the pipe."""
    status = 1
    try:
        status = intake.run()
    finally:
        if (failure := sys.exc_info())[0] is not None:
            sys.excepthook(*failure)
        exit_now(status)


def run_steps(
    work: queue.SimpleQueue[Work],
    scheduler: Stepper,
    send: Callable[[Sequence[Event]], None],
    *,
    lease: WorkerLease,
    log: IntervalLog,
) -> None:
    """Step until `Shutdown`. Commands take effect between steps.

    Args:
        work: The inbox.
        scheduler: Over a loaded engine.
        send: Takes events for the daemon.
        lease: Says when a step may be made.
        log: Of the steps.

    Raises:
        OutOfMemory: The device ran out in a step.
    """
    while True:
        if turn := lease.turn(has_work=scheduler.has_work):
            send(turn)
        if scheduler.has_work and lease.is_held and work.empty():
            with log.interval("step"):
                events = scheduler.step()
            if events:
                send(events)
            continue
        item = work.get() if scheduler.has_work else _next_item(work, scheduler)
        if isinstance(item, Shutdown):
            return
        if answers := _obey(item, scheduler, lease):
            send(answers)


def _next_item(work: queue.SimpleQueue[Work], scheduler: Stepper) -> Work:
    """What comes next; until then the scheduler rests, which may be work of its own."""
    while work.empty() and scheduler.rest():
        with suppress(queue.Empty):
            return work.get(timeout=REST_PERIOD_S)
    return work.get()


def _obey(
    item: Ready | VectorJob | Cancel | Shrink | StopThinking | LeaseCommand,
    scheduler: Stepper,
    lease: WorkerLease,
) -> Sequence[Event]:
    """Do what came between two steps; returns what it has to tell."""
    match item:
        case Ready() | VectorJob():
            scheduler.submit(item)
        case Cancel(sequence):
            return scheduler.cancel(sequence)
        case StopThinking(sequence):
            scheduler.stop_thinking(sequence)
        case Shrink(prefix_cache_bytes):
            scheduler.shrink(prefix_cache_bytes)
        case _:
            lease.take(item)
    return ()


def exit_now(status: int) -> None:
    """Leave without waiting for threads or library destructors, which may hang after a failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
