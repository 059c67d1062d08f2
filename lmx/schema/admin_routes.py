"""The admin routes as the API's description lists them."""

from lmx.errors import (
    AdminKeyUnset,
    ConfigError,
    CorruptModel,
    DoesNotFit,
    InvalidRequest,
    LmxError,
    LoadCancelled,
    LoadCrashed,
    LogNotFound,
    ModelInUse,
    ModelNotFound,
    ModelQuarantined,
    NotDeletable,
    UnsupportedModel,
)
from lmx.schema.admin import (
    AdminMemory,
    AdminModels,
    AdminStatus,
    AvailableModel,
    CompatibilityReply,
    DeleteReply,
    LoadReply,
    PerformanceReply,
    ProbeReply,
    UnloadReply,
)
from lmx.schema.admin_requests import (
    CompatibilityQuery,
    LoadRequest,
    ProbeRequest,
    UnloadRequest,
)
from lmx.schema.card import ModelCard
from lmx.schema.downloads import DownloadPending
from lmx.schema.job_routes import FETCH_ERRORS
from lmx.schema.logs import LogFile, LogTailQuery, LogTailReply
from lmx.schema.machine import DeviceReply, ReloadReply
from lmx.schema.route import BODY_ERRORS, Errors, Route

LOAD_ERRORS: Errors = (
    ModelNotFound,
    ModelQuarantined,
    LoadCrashed,
    LoadCancelled,
    UnsupportedModel,
    CorruptModel,
    DoesNotFit,
    LmxError,
)

ADMIN_ROUTES: tuple[Route, ...] = (
    Route("get", "/admin/status", "The server at a glance", AdminStatus),
    Route("get", "/admin/memory", "Memory of the machine and of each model", AdminMemory),
    Route("get", "/admin/models", "Models that answer, load or are on disk", AdminModels),
    Route(
        "get", "/admin/models/available", "List the models on disk", AvailableModel, is_list=True
    ),
    Route(
        "post",
        "/admin/models/load",
        "Load a model and wait for it",
        LoadReply,
        request=LoadRequest,
        others={202: DownloadPending},
        errors=(*BODY_ERRORS, *LOAD_ERRORS, *FETCH_ERRORS, AdminKeyUnset),
    ),
    Route(
        "post",
        "/admin/models/unload",
        "Unload a model, or end its load",
        UnloadReply,
        request=UnloadRequest,
        errors=(*BODY_ERRORS, ModelNotFound, LmxError),
        needs_body=False,
    ),
    Route(
        "delete",
        "/admin/models/{model}",
        "Delete a model's files",
        DeleteReply,
        errors=(ModelNotFound, ModelInUse, NotDeletable, LmxError),
    ),
    Route(
        "get",
        "/admin/models/{model}/performance",
        "How a loaded model is run",
        PerformanceReply,
        errors=(ModelNotFound,),
    ),
    Route(
        "get",
        "/admin/models/{model}/card",
        "Look at a model closely",
        ModelCard,
        errors=(ModelNotFound, CorruptModel, UnsupportedModel, InvalidRequest, LmxError),
    ),
    Route(
        "post",
        "/admin/models/probe",
        "Try out which backends load a model",
        ProbeReply,
        request=ProbeRequest,
        errors=(*BODY_ERRORS, ModelNotFound, CorruptModel, LmxError),
    ),
    Route(
        "get",
        "/admin/models/compatibility",
        "How loads of models went",
        CompatibilityReply,
        errors=(InvalidRequest,),
        query=CompatibilityQuery,
    ),
    Route("get", "/admin/device", "The machine and its part in the network", DeviceReply),
    Route(
        "post",
        "/admin/config/reload",
        "Read the settings again and apply what can be applied",
        ReloadReply,
        errors=(ConfigError, LmxError),
    ),
    Route(
        "get",
        "/admin/logs/tail",
        "The last log lines",
        LogTailReply,
        errors=(InvalidRequest,),
        query=LogTailQuery,
    ),
    *(
        route
        for kind, words in (("sessions", "sessions and of the server"), ("updates", "updates"))
        for route in (
            Route("get", f"/admin/logs/{kind}", f"List the logs of {words}", LogFile, is_list=True),
            Route(
                "get",
                f"/admin/logs/{kind}/{{filename}}",
                f"Read one of the logs of {words}",
                None,
                errors=(LogNotFound,),
            ),
        )
    ),
)
