"""The routes of downloads and quantisations, on Quart, and what they and a load say of an offer."""

from urllib.parse import quote

import msgspec
from quart import Blueprint, Response, request

from lmx.daemon.jobs.arrivals import Arrivals, Offer, make_wanted
from lmx.daemon.jobs.board import newest_first
from lmx.daemon.jobs.quantizer import BITS, GROUP_SIZE, Quantizer, Reduction
from lmx.daemon.jobs.record import DownloadJob, QuantizeJob, Wanted
from lmx.protocol.jobs import DownloadPlan
from lmx.schema.downloads import (
    DownloadList,
    DownloadPending,
    DownloadPreview,
    DownloadProgress,
    DownloadRequest,
    DownloadStarted,
    DownloadStatus,
    human_size,
    parse_confirm_request,
    parse_download_request,
    parse_downloads_query,
)
from lmx.schema.quantize import (
    QuantizeCancelReply,
    QuantizeList,
    QuantizeRow,
    parse_quantize_request,
)
from lmx.web.admin_views import gigabytes
from lmx.web.bodies import json_response, read_body

CONFIRM_URL = "/admin/models/load/confirm"
ACCEPTED = 202


def download_routes(arrivals: Arrivals) -> Blueprint:
    """The routes of downloads.

    Args:
        arrivals: Fetches and loads.
    """
    routes = Blueprint("downloads", __name__, url_prefix="/admin/models")
    downloads = arrivals.downloads

    @routes.post("/load/confirm")
    async def confirm() -> Response:
        asked = await read_body(parse_confirm_request)
        job = await arrivals.confirm(asked.confirmation_token)
        return json_response(pending_reply(job), ACCEPTED)

    @routes.post("/download")
    async def download() -> Response:
        job = await arrivals.download(_wanted(await read_body(parse_download_request)))
        return json_response(
            DownloadStarted(
                download_id=job.id,
                repo_id=job.wanted.repo_id,
                status=_status(job),
                estimated_size_bytes=job.plan.total_bytes,
                estimated_size_human=human_size(job.plan.total_bytes),
                progress_url=_progress_url(job),
            )
        )

    @routes.post("/download/preview")
    async def preview() -> Response:
        wanted = _wanted(await read_body(parse_download_request))
        return json_response(_preview(wanted, await arrivals.preview(wanted)))

    @routes.get("/downloads")
    async def show_all() -> Response:
        query = parse_downloads_query(request.args)
        jobs = [job for job in downloads.jobs if query.include_inactive or job.is_unfinished]
        rows = [progress_row(job) for job in newest_first(jobs)]
        return json_response(
            DownloadList(downloads=rows, count=len(rows), include_inactive=query.include_inactive)
        )

    @routes.get("/download/<job_id>/progress")
    async def show_progress(job_id: str) -> Response:
        row = progress_row(downloads.get(job_id))
        if row.status == "cancelled":
            row = msgspec.structs.replace(row, status="failed")
        return json_response(row)

    @routes.post("/download/<job_id>/cancel")
    async def cancel(job_id: str) -> Response:
        return json_response(progress_row(await downloads.cancel(job_id)))

    return routes


def quantize_routes(quantizer: Quantizer) -> Blueprint:
    """The routes of quantisations.

    Args:
        quantizer: Does them.
    """
    routes = Blueprint("quantize", __name__, url_prefix="/admin/quantize")

    @routes.post("")
    async def start() -> Response:
        asked = await read_body(parse_quantize_request)
        reduction = Reduction(
            asked.bits or BITS, asked.group_size or GROUP_SIZE, asked.mode or "affine"
        )
        job = await quantizer.start(asked.source, reduction, asked.output_path)
        return json_response(quantize_row(job))

    @routes.get("")
    async def show_all() -> Response:
        rows = [quantize_row(job) for job in newest_first(quantizer.jobs)]
        return json_response(QuantizeList(jobs=rows, count=len(rows)))

    @routes.get("/<job_id>")
    async def show(job_id: str) -> Response:
        return json_response(quantize_row(quantizer.get(job_id)))

    @routes.post("/<job_id>/cancel")
    async def cancel(job_id: str) -> Response:
        was_unfinished = quantizer.get(job_id).is_unfinished
        job = await quantizer.cancel(job_id)
        is_cancelled = was_unfinished and job.status == "cancelled"
        return json_response(
            QuantizeCancelReply(cancelled=is_cancelled, job_id=job.id, status=job.status)
        )

    return routes


def _preview(wanted: Wanted, found: DownloadPlan | DownloadJob) -> DownloadPreview:
    job = found if isinstance(found, DownloadJob) else None
    plan = found.plan if isinstance(found, DownloadJob) else found
    return DownloadPreview(
        download_id=None if job is None else job.id,
        repo_id=wanted.repo_id,
        model_id=wanted.model_id,
        files_total=len(plan.files),
        estimated_size_bytes=plan.total_bytes,
        estimated_size_human=human_size(plan.total_bytes),
    )


def pending_reply(found: Offer | DownloadJob) -> DownloadPending:
    """What a load of a model says that is not here."""
    size = found.plan.total_bytes
    human = human_size(size)
    name = found.wanted.model_id
    if isinstance(found, Offer):
        return DownloadPending(
            status="download_required",
            model_id=name,
            model=name,
            confirmation_token=found.token,
            estimated_size_bytes=size,
            estimated_size_human=human,
            files_total=len(found.plan.files),
            message=f"{name} is not on this machine; downloading it takes {human}.",
            confirm_url=CONFIRM_URL,
        )
    then = " and is loaded then" if found.wish is not None else ""
    return DownloadPending(
        status="downloading",
        model_id=name,
        model=name,
        download_id=found.id,
        estimated_size_bytes=size,
        estimated_size_human=human,
        files_total=len(found.plan.files),
        message=f"{name} is being downloaded ({human}){then}.",
        progress_url=_progress_url(found),
    )


def progress_row(job: DownloadJob) -> DownloadProgress:
    """How far a download is."""
    return DownloadProgress(
        download_id=job.id,
        repo_id=job.wanted.repo_id,
        model_id=job.wanted.model_id,
        status=_status(job),
        stage=job.stage,
        progress_percent=job.percent,
        downloaded_bytes=job.done_bytes,
        total_bytes=job.total_bytes,
        files_completed=job.files_done,
        files_total=len(job.plan.files),
        error=job.error,
        error_code=job.error_code,
        revision=job.wanted.revision,
        local_path=job.target,
        started_at=job.started_at,
        completed_at=job.completed_at,
    )


def quantize_row(job: QuantizeJob) -> QuantizeRow:
    """A quantisation, and how far it is."""
    ended_at, size = job.completed_at, job.output_size_bytes
    duration_s = None
    if job.started_at is not None and ended_at is not None:
        duration_s = round(max(0.0, ended_at - job.started_at), 3)
    return QuantizeRow(
        job_id=job.id,
        source_model=job.source_model,
        model_id=job.spec.id,
        output_path=job.output,
        bits=job.bits,
        target_bits=job.bits,
        group_size=job.group_size,
        mode=job.mode,
        status=job.status,
        progress_percent=job.percent,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=ended_at,
        duration_sec=duration_s,
        output_size_bytes=size,
        output_size_gb=None if size is None else gigabytes(size),
        error=job.error,
        error_code=job.error_code,
    )


def _wanted(asked: DownloadRequest) -> Wanted:
    return make_wanted(
        asked.repo_id,
        revision=asked.revision or "main",
        allow_patterns=tuple(asked.allow_patterns or ()),
        ignore_patterns=tuple(asked.ignore_patterns or ()),
    )


def _status(job: DownloadJob) -> DownloadStatus:
    return "downloading" if job.status == "running" else job.status


def _progress_url(job: DownloadJob) -> str:
    return f"/admin/models/download/{quote(job.id)}/progress"
