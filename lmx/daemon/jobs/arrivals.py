"""Models that are asked for and not here yet: offered, downloaded, then loaded.

A load of an absent model either ends with an offer, which a token confirms, or waits for the whole
way, as its client prefers. What is to be loaded is noted with the download, so that neither a
client that leaves nor a restart of the daemon loses it.
"""

import re
from typing import NamedTuple, NoReturn

import structlog
import trio

from lmx.catalog.specs import parse_spec
from lmx.config import Backend
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.jobs.downloads import Downloads
from lmx.daemon.jobs.offers import Offers
from lmx.daemon.jobs.record import CANCELLED, DownloadJob, LoadWish, Wanted
from lmx.daemon.model import Model
from lmx.errors import (
    HubUnreachable,
    InvalidRequest,
    LmxError,
    LoadCancelled,
    ModelInUse,
    ModelNotFound,
    from_code,
)
from lmx.protocol.jobs import DownloadPlan

# What may be asked for at a hub without somebody saying that it is there: names without a
# publisher are mostly models that were mistyped.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w][\w.-]{0,95}", re.ASCII)
NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

log = structlog.get_logger("lmx.downloads")


class Offer(NamedTuple):
    """A download that waits for somebody to say yes.

    Attributes:
        plan: What it fetches.
        token: What says yes.
    """

    wanted: Wanted
    plan: DownloadPlan
    wish: LoadWish
    token: str = ""


class Arrivals:
    """Loads models, from a hub if need be.

    Args:
        admin: Loads and deletes what is here.
        downloads: Fetches what is not.

    Attributes:
        admin: The same.
        downloads: The same.
    """

    def __init__(self, admin: ModelAdmin, downloads: Downloads) -> None:
        self.admin = admin
        self.downloads = downloads
        self._offers: Offers[Offer] = Offers(trio.current_time)
        self._nursery: trio.Nursery | None = None
        downloads.on_completed(self._load_arrived)

    async def run(self) -> NoReturn:
        """Own the loads that follow downloads."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None
        raise AssertionError("unreachable: sleep_forever only ends by cancellation")

    async def load(self, wish: LoadWish) -> Model | Offer | DownloadJob:
        """Have a model loaded that is here; else say what fetching it would mean.

        Args:
            wish: As `ModelAdmin.load` takes it.

        Returns:
            The model, loaded; or an offer of its download; or the download that is under way.

        Raises:
            LmxError: Why it is neither loaded nor can be fetched.

        Cancellation:
            A load goes on.
        """
        try:
            return await self.admin.load(wish.name, wish.backend, wish.options)
        except ModelNotFound as error:
            wanted = self._wanted_for(wish.name, wish.backend)
            if wanted is None:
                raise
            return await self._offer(wanted, wish, error)

    async def finish(self, found: Offer | DownloadJob, wish: LoadWish) -> Model:
        """Go through with what a load has led to: download the model, then load it.

        Args:
            found: What `load` said.
            wish: What was asked for.

        Raises:
            LmxError: Why it is neither loaded nor can be fetched.

        Cancellation:
            Both go on.
        """
        job = found
        if isinstance(job, Offer):
            job = await self.downloads.start(job.wanted, job.plan, job.wish)
        await self.downloads.wait(job)
        _raise_if_ended_badly(job)
        return await self.admin.load(wish.name, wish.backend, wish.options)

    async def confirm(self, token: str) -> DownloadJob:
        """Download what a token stands for; twice is once.

        Raises:
            TokenNotFound: It stands for nothing.
            TokenExpired: No longer.
            LmxError: The download cannot begin.
        """
        offer = self._offers.take(token)
        job = next((job for job in reversed(self.downloads.jobs) if _is_answer(job, offer)), None)
        return job or await self.downloads.start(offer.wanted, offer.plan, offer.wish)

    async def preview(self, wanted: Wanted) -> DownloadPlan | DownloadJob:
        """Say what a download would fetch; the download itself if it is under way.

        Raises:
            DownloadsDisabled: Settings forbid it.
            LmxError: It could not begin.
        """
        if job := await self.downloads.join(wanted):
            return job
        plan = await self.downloads.plan(wanted)
        await self.downloads.check_space(wanted, plan)
        return plan

    async def download(self, wanted: Wanted) -> DownloadJob:
        """Have a model downloaded, and not loaded.

        Raises:
            DownloadsDisabled: Settings forbid it.
            LmxError: It cannot begin.
        """
        if job := await self.downloads.join(wanted):
            return job
        return await self.downloads.start(wanted, await self.downloads.plan(wanted))

    async def delete(self, model_id: str) -> tuple[str, int]:
        """Delete a model's files, or what an ended download has brought of them.

        Raises:
            ModelInUse: It is loaded, on its way, or being downloaded.
            LmxError: See `ModelAdmin.delete`.
        """
        jobs = [job for job in self.downloads.jobs if job.wanted.model_id == model_id]
        if any(job.is_unfinished for job in jobs):
            raise ModelInUse(
                f"{model_id} is being downloaded; cancel that before", param="model_id"
            )
        leftovers = [job for job in jobs if job.status != "completed"]
        try:
            deleted_id, freed = await self.admin.delete(model_id)
        except ModelNotFound:
            if not leftovers:
                raise
            deleted_id, freed = model_id, 0
        for job in leftovers:
            await self.downloads.forget(job)
            freed += job.done_bytes
        return deleted_id, freed

    def _wanted_for(self, name: str, backend: Backend | None) -> Wanted | None:
        """What to fetch for a name; nothing for a path, or where downloads are switched off."""
        spec = parse_spec(name, backend or self.admin.loader.settings.models.backend)
        is_repository = spec.kind == "id" and REPOSITORY.fullmatch(spec.source)
        if not is_repository or not self.downloads.is_enabled:
            return None
        return make_wanted(name, backend=spec.backend)

    async def _offer(
        self, wanted: Wanted, wish: LoadWish, absence: ModelNotFound
    ) -> Offer | DownloadJob:
        if job := await self.downloads.join(wanted, wish):
            return job
        try:
            plan = await self.downloads.plan(wanted)
        except (HubUnreachable, ModelNotFound) as error:
            raise ModelNotFound(
                f"{absence.message}; nor can it be downloaded: {error.message}", param="model_id"
            ) from error
        await self.downloads.check_space(wanted, plan)
        offer = Offer(wanted, plan, wish)
        return offer._replace(token=self._offers.make(offer))

    def _load_arrived(self, job: DownloadJob) -> None:
        if job.wish is not None and self._nursery is not None:
            self._nursery.start_soon(self._load, job.wish)

    async def _load(self, wish: LoadWish) -> None:
        try:
            await self.admin.load(wish.name, wish.backend, wish.options)
        except LmxError as error:
            log.warning("a download cannot be loaded", model=wish.name, reason=error.message)


def make_wanted(
    name: str,
    *,
    revision: str = "main",
    backend: Backend = "auto",
    allow_patterns: tuple[str, ...] = (),
    ignore_patterns: tuple[str, ...] = (),
) -> Wanted:
    """What a name of a repository, with or without a quantisation behind it, asks for.

    Raises:
        InvalidRequest: It is no name of a repository.
    """
    spec = parse_spec(name)
    is_name = spec.kind == "id" and NAME.fullmatch(spec.source) and ".." not in spec.source
    if not is_name or "--" in spec.source:
        raise InvalidRequest(f"{name!r} names no repository, such as org/name", param="repo_id")
    return Wanted(
        repo_id=spec.source,
        revision=revision,
        variant=spec.variant,
        backend=backend,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
    )


def _is_answer(job: DownloadJob, offer: Offer) -> bool:
    """Whether a download is what an offer has become: it runs, or has brought just that."""
    is_good = job.is_unfinished or job.status == "completed"
    return is_good and job.wanted == offer.wanted and job.plan == offer.plan


def _raise_if_ended_badly(job: DownloadJob) -> None:
    if job.error_code == CANCELLED:
        raise LoadCancelled(f"the download of {job.wanted.model_id} was cancelled")
    if job.error_code is not None:
        raise from_code(job.error_code, job.error or "the download failed")
