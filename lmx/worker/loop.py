"""The engine thread: load, then step until told to stop. Ignores Ctrl-C; the daemon decides.

It owns the engine from load to exit and blocks on its inbox only when there is nothing to compute.
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

from lmx.engines import LoadedEngine, load_engine
from lmx.errors import LmxError, OutOfMemory
from lmx.protocol.messages import EXIT_OUT_OF_MEMORY, Cancel, Load, Loaded, LoadFailed
from lmx.worker.channel import Channel
from lmx.worker.intake import Intake, Served, Work
from lmx.worker.scheduler import Ready, Scheduler

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
    load = intake.loads.get()
    loaded = _load(load, channel)
    if loaded is None:
        return EXIT_LOAD_FAILED
    served = Served(loaded, load.dialect)
    intake.serve(served)
    engine = loaded.engine
    visible = served.dialect.visible
    scheduler = Scheduler(engine, loaded.tokenizer, visible=visible, clock=time.monotonic)
    channel.send([Loaded(engine.info, engine.memory(), loaded.notes)])
    try:
        _run_steps(intake.work, scheduler, channel)
    except OutOfMemory as error:
        sys.stderr.write(f"lmx worker: {error.message}\n")
        return EXIT_OUT_OF_MEMORY
    engine.close()
    return 0


def _load(load: Load, channel: Channel) -> LoadedEngine | None:
    try:
        return load_engine(load)
    except LmxError as error:
        channel.send([LoadFailed(error.code, error.message)])
    except Exception as error:  # noqa: BLE001  # any library may raise anything while loading
        traceback.print_exc()
        channel.send([LoadFailed("load-failed", f"{type(error).__name__}: {error}")])
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


def _run_steps(work: queue.SimpleQueue[Work], scheduler: Scheduler, channel: Channel) -> None:
    """Step until `Shutdown`. Commands take effect between steps."""
    while True:
        while not (scheduler.has_work and work.empty()):
            item = work.get()
            if isinstance(item, Ready):
                scheduler.submit(item)
            elif isinstance(item, Cancel):
                if events := scheduler.cancel(item.sequence):
                    channel.send(events)
            else:
                return
        if events := scheduler.step():
            channel.send(events)


def exit_now(status: int) -> None:
    """Leave without waiting for threads or library destructors, which may hang after a failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
