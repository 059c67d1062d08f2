"""The routes that show the daemon at work, as the API's description lists them."""

from lmx.errors import RequestNotFound
from lmx.schema.events import EventDocument, TakeUpQuery
from lmx.schema.live import AdminHealth, CancelReply, Diagnostics, MetricsReply, RunningReply
from lmx.schema.route import Route

LIVE_ROUTES: tuple[Route, ...] = (
    Route("get", "/metrics", "Measurements, for Prometheus", None),
    Route("get", "/admin/metrics", "Measurements, for Prometheus", None),
    Route("get", "/admin/metrics/json", "Measurements, as JSON", MetricsReply),
    Route("get", "/admin/diagnostics", "Whether all is well, and if not, why", Diagnostics),
    Route("get", "/admin/health", "The server's health", AdminHealth),
    Route(
        "get",
        "/admin/events",
        "What happens, as it happens",
        None,
        event=EventDocument,
        query=TakeUpQuery,
    ),
    Route("get", "/admin/requests", "List the requests under way", RunningReply),
    Route(
        "post",
        "/admin/requests/{request_id}/cancel",
        "End a request",
        CancelReply,
        errors=(RequestNotFound,),
    ),
)
