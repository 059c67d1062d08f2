"""Quantisations: a model is written again with smaller weights, in the background.

One at a time and on the CPU in a process of its own, so that models that answer keep the device.
The result appears whole or not at all, where the inventory finds it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import structlog
import trio

from lmx.catalog.embedded import EMBEDDED
from lmx.catalog.folders import quantized_directory
from lmx.catalog.locate import locate
from lmx.catalog.mlx_files import mlx_purpose, read_mlx
from lmx.catalog.removal import plan_removal
from lmx.catalog.specs import ModelSpec
from lmx.config import DownloadSettings
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.jobs.board import Board, Change
from lmx.daemon.jobs.child import run_job
from lmx.daemon.jobs.record import QuantizeJob, new_id
from lmx.daemon.jobs.space import FreeBytes, check_space, free_bytes
from lmx.daemon.telemetry import Telemetry
from lmx.errors import (
    InvalidRequest,
    ModelNotFound,
    NotDeletable,
    OutputExists,
    UnsupportedModel,
)
from lmx.protocol.jobs import Done, QuantizeOrder

MODULE = "lmx.jobs.quantize"
BITS = 4
GROUP_SIZE = 64
# A scale and an offset of 16 bits for each group, as bits of one weight in it.
GROUP_BITS = 32

log = structlog.get_logger("lmx.quantize")


class Reduction(NamedTuple):
    """How weights get smaller.

    Attributes:
        bits: Per weight.
        group_size: Weights that share a scale and an offset.
        mode: As it was asked for.
    """

    bits: int = BITS
    group_size: int = GROUP_SIZE
    mode: str = "affine"

    def shrink(self, weight_bytes: int) -> int:
        """About what weights of 16 bits come to."""
        return round(weight_bytes * (self.bits + GROUP_BITS / self.group_size) / 16)


class Quantizer:
    """All quantisations of the daemon.

    Args:
        admin: Knows what names mean.
        telemetry: Told how they go.
        settings: Say how much of the disk must stay free.
        free: Tells what is free on the disk of a path.
    """

    def __init__(
        self,
        admin: ModelAdmin,
        telemetry: Telemetry,
        settings: Callable[[], DownloadSettings],
        *,
        free: FreeBytes = free_bytes,
    ) -> None:
        self._admin = admin
        self._telemetry = telemetry
        self._settings = settings
        self._free = free
        self._home = admin.loader.settings.home
        self._board = Board(
            self._home / "state" / "quantize",
            QuantizeJob,
            self._quantize,
            limit=lambda: 1,
            tell=self._tell,
        )

    @property
    def jobs(self) -> list[QuantizeJob]:
        """All that are known, the oldest first."""
        return self._board.jobs

    async def run(self) -> NoReturn:
        """Quantise for ever. What is cancelled with it begins anew at the next start."""
        await self._board.run()

    async def recall(self) -> None:
        """Know the quantisations of before."""
        await self._board.recall()

    def get(self, job_id: str) -> QuantizeJob:
        """One quantisation.

        Raises:
            JobNotFound: There is none of that id.
        """
        return self._board.get(job_id)

    async def start(self, name: str, reduction: Reduction, output: str | None) -> QuantizeJob:
        """Have a model quantised. The same that is under way already is joined.

        Args:
            name: The model, in any form that names one on disk.
            reduction: How.
            output: The directory to appear; `None` for one that is named after the model.

        Raises:
            ModelNotFound: There is no such model on disk.
            UnsupportedModel: It cannot be quantised here.
            CorruptModel: It is damaged.
            InvalidRequest: The directory is none in which models are kept.
            OutputExists: It is there already.
            StorageFull: There is no room for it.
        """
        spec = await self._admin.find(name)
        source, weight_bytes = await trio.to_thread.run_sync(self._look, spec)
        place = await trio.to_thread.run_sync(self._place, spec, reduction, output)
        job = QuantizeJob(
            id=new_id("qz"),
            source_model=name,
            spec=spec,
            source=str(source),
            output=str(place),
            total_bytes=reduction.shrink(weight_bytes),
            **reduction._asdict(),
        )
        if other := self._find(job):
            return other
        if await trio.to_thread.run_sync(place.exists):
            raise OutputExists(f"{place} is there already", param="output_path")
        await check_space(
            place,
            job.total_bytes,
            reserve_bytes=round(self._settings().keep_free_gb * 1e9),
            free=self._free,
        )
        if other := self._find(job):  # somebody was quicker
            return other
        await self._board.add(job)
        log.info("quantize", job=job.id, model=spec.id, output=job.output)
        return job

    async def cancel(self, job_id: str) -> QuantizeJob:
        """End a quantisation, and remove what there is of it.

        Raises:
            JobNotFound: There is none of that id.
        """
        job = await self._board.cancel(job_id)
        await trio.to_thread.run_sync(_remove, job.partial)
        return job

    async def wait(self, job: QuantizeJob) -> None:
        """Wait until it has ended."""
        await self._board.wait(job.id)

    def _find(self, wanted: QuantizeJob) -> QuantizeJob | None:
        """The same that is under way; another one to the same place bars the way.

        Raises:
            OutputExists: Something else is being written there.
        """
        for job in self.jobs:
            if job.is_unfinished and job.output == wanted.output:
                if _question(job) == _question(wanted):
                    return job
                raise OutputExists(f"{job.id} is writing to {job.output}", param="output_path")
        return None

    def _look(self, spec: ModelSpec) -> tuple[Path, int]:
        """The directory of a model that can be quantised, and the size of its weights."""
        path = self._find_directory(spec)
        model = read_mlx(path)
        if "quantization" in model.config or "quantization_config" in model.config:
            raise UnsupportedModel(f"{spec.id} is quantised already", param="source_model")
        if mlx_purpose(path) != "generation":
            raise UnsupportedModel(f"{spec.id} does not generate text", param="source_model")
        return path, model.weight_bytes

    def _find_directory(self, spec: ModelSpec) -> Path:
        if embedded := EMBEDDED.get(spec.source if spec.kind == "embedded" else ""):
            if path := embedded.find(self._home):
                return path
            raise ModelNotFound(f"{spec.id} has not been fetched yet", param="source_model")
        if spec.kind == "fake":
            raise UnsupportedModel("a fake model has no weights", param="source_model")
        found = locate(spec, self._home, self._admin.loader.settings.models.folders)
        if found.format != "mlx":
            raise UnsupportedModel(f"{found.path} is no MLX model", param="source_model")
        return found.path

    def _place(self, spec: ModelSpec, reduction: Reduction, output: str | None) -> Path:
        """Where the result is to appear: only where models are kept."""
        own = quantized_directory(self._home)
        name = f"{spec.id.rstrip('/').rpartition('/')[2]}-{reduction.bits}bit"
        place = own / Path(output or name).expanduser()
        if ".." in place.parts:
            raise InvalidRequest("the path leads upwards", param="output_path")
        try:
            plan_removal(place, self._home, self._admin.loader.settings.models.folders)
        except NotDeletable as error:
            raise InvalidRequest(
                f"{place} is in none of the folders in which LMX keeps models", param="output_path"
            ) from error
        return place

    async def _quantize(self, job: QuantizeJob) -> None:
        order = QuantizeOrder(
            source=job.source,
            target=job.output,
            partial=str(job.partial),
            bits=job.bits,
            group_size=job.group_size,
        )
        try:
            done = await run_job(MODULE, order, lambda now: self._board.advance(job, now))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, job.partial)
        if isinstance(done, Done):
            job.output_size_bytes = done.size_bytes
        await self._admin.loader.shelf.rows(is_fresh=True)

    def _tell(self, change: Change, job: QuantizeJob) -> None:
        self._telemetry.publish(f"quantize_{change}", **event_fields(job))


def event_fields(job: QuantizeJob) -> dict[str, Any]:
    """What events say of a quantisation."""
    return {
        "job_id": job.id,
        "source_model": job.source_model,
        "output_path": job.output,
        "status": job.status,
        "progress_percent": job.percent,
        "error": job.error,
        "error_code": job.error_code,
    }


def _question(job: QuantizeJob) -> tuple[str, int, int]:
    return job.source, job.bits, job.group_size


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
