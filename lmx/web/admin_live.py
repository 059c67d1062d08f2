"""The routes that show the daemon at work, on Quart: what is measured, what runs, how it is.

Each answer is a reading of memory and waits for nothing, because dashboards ask for all of them
every few seconds. Health is told with status 200 whatever it is: clients accept nothing else.
"""

from quart import Blueprint, Response

from lmx.errors import RequestNotFound
from lmx.schema.live import CancelReply
from lmx.schema.metrics import TEXT_TYPE
from lmx.web.bodies import json_response
from lmx.web.live_views import diagnostics_reply, health_reply, metrics_reply, running_reply
from lmx.web.scrape import Scrape
from lmx.web.services import Services


def live_routes(services: Services) -> Blueprint:
    """The routes.

    Args:
        services: What is shown.
    """
    routes = Blueprint("live", __name__)
    views = LiveRoutes(services)
    routes.get("/metrics")(views.metrics)
    routes.get("/admin/metrics", endpoint="admin_metrics")(views.metrics)
    routes.get("/admin/metrics/json")(views.metrics_json)
    routes.get("/admin/diagnostics")(views.diagnostics)
    routes.get("/admin/health")(views.health)
    routes.get("/admin/requests")(views.requests)
    routes.post("/admin/requests/<request_id>/cancel")(views.cancel)
    return routes


class LiveRoutes:
    """The handlers.

    Args:
        services: What is shown.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._scrape = Scrape(
            services.telemetry,
            services.dispatch,
            services.loader,
            skill_runs=services.skills.runs,
        )

    async def metrics(self) -> Response:
        """``GET /metrics`` and ``GET /admin/metrics``."""
        return Response(self._scrape.encode(), content_type=TEXT_TYPE[1].decode())

    async def metrics_json(self) -> Response:
        """``GET /admin/metrics/json``."""
        return json_response(metrics_reply(self._services.telemetry))

    async def diagnostics(self) -> Response:
        """``GET /admin/diagnostics``."""
        services = self._services
        return json_response(
            diagnostics_reply(services.telemetry, services.loader, services.dispatch)
        )

    async def health(self) -> Response:
        """``GET /admin/health``."""
        return json_response(health_reply(self._services.loader, self._services.dispatch))

    async def requests(self) -> Response:
        """``GET /admin/requests``."""
        return json_response(running_reply(self._services.dispatch))

    async def cancel(self, request_id: str) -> Response:
        """``POST /admin/requests/{request_id}/cancel``: answers once the request is told."""
        if not self._services.dispatch.cancel(request_id):
            raise RequestNotFound(
                f"No running request has the id {request_id!r}", param="request_id"
            )
        return json_response(CancelReply(request_id=request_id))
