"""``GET /admin/logs/tail``: the daemon's last log lines, on Quart."""

import msgspec
from quart import Blueprint, Response, request

from lmx.daemon.log_tail import LogTail
from lmx.schema.logs import LogTailReply, parse_log_tail_query


def log_routes(log_tail: LogTail) -> Blueprint:
    """The route.

    Args:
        log_tail: Has the lines.
    """
    routes = Blueprint("logs", __name__, url_prefix="/admin/logs")

    @routes.get("/tail")
    async def show_tail() -> Response:
        query = parse_log_tail_query(request.args)
        reply = LogTailReply(lines=log_tail.last(query.lines))
        return Response(msgspec.json.encode(reply), content_type="application/json")

    return routes
