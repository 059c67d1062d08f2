"""The routes of downloads and quantisations, as the API's description lists them."""

from lmx.errors import (
    ChecksumMismatch,
    CorruptModel,
    DownloadsDisabled,
    HubUnreachable,
    InvalidRequest,
    JobCrashed,
    JobNotFound,
    LmxError,
    ModelNotFound,
    OutputExists,
    RepositoryGated,
    StorageFull,
    TokenExpired,
    TokenNotFound,
    UnsupportedModel,
)
from lmx.schema.downloads import (
    ConfirmRequest,
    DownloadList,
    DownloadPending,
    DownloadPreview,
    DownloadProgress,
    DownloadRequest,
    DownloadsQuery,
    DownloadStarted,
)
from lmx.schema.quantize import (
    QuantizeCancelReply,
    QuantizeList,
    QuantizeRequest,
    QuantizeRow,
)
from lmx.schema.route import BODY_ERRORS, Errors, Route

# What planning a download may say instead.
PLAN_ERRORS: Errors = (
    ModelNotFound,
    DownloadsDisabled,
    RepositoryGated,
    HubUnreachable,
    UnsupportedModel,
    StorageFull,
    JobCrashed,
    LmxError,
)
# And the download itself, for whoever waits for it.
FETCH_ERRORS: Errors = (*PLAN_ERRORS, ChecksumMismatch)

JOB_ROUTES: tuple[Route, ...] = (
    Route(
        "post",
        "/admin/models/load/confirm",
        "Download a model that was offered, and load it then",
        DownloadPending,
        request=ConfirmRequest,
        others={202: DownloadPending},
        errors=(
            *BODY_ERRORS,
            TokenNotFound,
            TokenExpired,
            DownloadsDisabled,
            StorageFull,
            LmxError,
        ),
    ),
    Route(
        "post",
        "/admin/models/download",
        "Download a model",
        DownloadStarted,
        request=DownloadRequest,
        errors=(*BODY_ERRORS, *PLAN_ERRORS),
    ),
    Route(
        "post",
        "/admin/models/download/preview",
        "What a download would fetch",
        DownloadPreview,
        request=DownloadRequest,
        errors=(*BODY_ERRORS, *PLAN_ERRORS),
    ),
    Route(
        "get",
        "/admin/models/downloads",
        "List downloads",
        DownloadList,
        query=DownloadsQuery,
        errors=(InvalidRequest,),
    ),
    Route(
        "get",
        "/admin/models/download/{job_id}/progress",
        "How far a download is",
        DownloadProgress,
        errors=(JobNotFound,),
    ),
    Route(
        "post",
        "/admin/models/download/{job_id}/cancel",
        "End a download; what it has brought is kept for the next time",
        DownloadProgress,
        errors=(JobNotFound, LmxError),
    ),
    Route(
        "post",
        "/admin/quantize",
        "Write a model again with smaller weights",
        QuantizeRow,
        request=QuantizeRequest,
        errors=(
            *BODY_ERRORS,
            ModelNotFound,
            UnsupportedModel,
            CorruptModel,
            OutputExists,
            StorageFull,
            LmxError,
        ),
    ),
    Route("get", "/admin/quantize", "List quantisations", QuantizeList),
    Route(
        "get",
        "/admin/quantize/{job_id}",
        "How far a quantisation is",
        QuantizeRow,
        errors=(JobNotFound,),
    ),
    Route(
        "post",
        "/admin/quantize/{job_id}/cancel",
        "End a quantisation",
        QuantizeCancelReply,
        errors=(JobNotFound, LmxError),
    ),
)
