"""From what somebody asked for to what a worker can load; imports what must be imported first.

The demo model and GGUF files become MLX directories in a child process, once; afterwards they are
found on disk and no network is asked.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
import trio
from msgspec import Struct

from lmx.catalog.locate import locate_directory, locate_gguf, locate_id
from lmx.catalog.specs import ModelSpec
from lmx.daemon.imports import DemoImport, GgufImport, ImportProgress, find_demo, run_import

# Progress lines in the log, per stage.
PROGRESS_STEP_PERCENT = 20

log = structlog.get_logger("lmx.import")


class Source(Struct, frozen=True):
    """What a worker is told to load.

    Attributes:
        engine: Engine name.
        path: Model directory, or the query string of a fake model.
    """

    engine: str
    path: str


async def find_source(spec: ModelSpec, home: Path) -> Source:
    """Locate a model, importing it first where needed.

    Raises:
        LoadError: It cannot be imported or is damaged.
        ModelNotFound: It is nowhere on disk.

    Cancellation:
        A running import ends; what it downloaded stays for the next try.
    """
    if spec.kind == "fake":
        return Source("fake", spec.source)
    if spec.kind == "demo":
        found = await trio.to_thread.run_sync(find_demo, home)
        path = found or await run_import(home, DemoImport(), _progress_logger(spec.id))
    elif spec.kind == "gguf":
        file = await trio.to_thread.run_sync(locate_gguf, spec.source)
        path = await run_import(home, GgufImport(file), _progress_logger(spec.id))
    elif spec.kind == "directory":
        path = await trio.to_thread.run_sync(locate_directory, spec.source)
    else:
        path = await trio.to_thread.run_sync(partial(locate_id, spec.source, home))
    return Source("mlx", str(path))


def _progress_logger(model_id: str) -> Callable[[ImportProgress], None]:
    """Log the first report of a stage and each step of percent after it."""
    reported: dict[str, int] = {}

    def report(progress: ImportProgress) -> None:
        percent = 100 * progress.done // progress.total if progress.total else 0
        step = percent // PROGRESS_STEP_PERCENT
        if step > reported.get(progress.stage, -1):
            reported[progress.stage] = step
            log.info("import", model=model_id, stage=progress.stage, percent=percent)

    return report
