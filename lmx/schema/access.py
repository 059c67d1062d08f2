"""Which key a route asks for. Pure: a path and a method in, a word out.

What is not listed asks for the inference key: a new route is closed until somebody opens it here.
"""

import re
from typing import Literal

from lmx.errors import (
    AccessError,
    AdminKeyRefused,
    AdminKeyUnset,
    HostRefused,
    KeyRefused,
    OriginRefused,
)

Access = Literal["open", "inference", "admin"]

# Answered whatever the `Host` header says: probes of containers and balancers make theirs up.
PROBES = frozenset({"/healthz", "/readyz", "/health"})
OPEN_PATHS = PROBES | {
    "/",
    "/docs",
    "/openapi.json",
    "/.well-known/opta-lmx",
    "/v1/discovery",
    "/admin/ui",
}
# The dashboard's own files; what it shows, it asks for with a key.
OPEN_PREFIX = "/admin/ui/"
ADMIN_PATHS = frozenset({"/admin", "/metrics"})
ADMIN_PREFIX = "/admin/"
# Browsers cannot set headers on an `EventSource`, so these take keys from the query string.
EVENT_STREAMS = re.compile(r"/admin/events|/v1/agents/runs/.+/events")
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What fills the disk.
FILLING_PATHS = frozenset(
    {"/admin/models/download", "/admin/models/load/confirm", "/admin/quantize"}
)
CHANGING_METHODS = frozenset({"DELETE", "PUT", "PATCH"})


def needed_access(path: str) -> Access:
    """What opens a path, given decoded as the routes are matched on it."""
    if path in OPEN_PATHS:
        return "open"
    path = re.sub("//+", "/", path)  # routers merge slashes
    if path.startswith(OPEN_PREFIX) and ".." not in path.split("/"):
        return "open"
    if path in ADMIN_PATHS or path.startswith(ADMIN_PREFIX):
        return "admin"
    return "inference"


def takes_query_keys(path: str) -> bool:
    """Whether a key may stand in the query string, where proxies would log it."""
    return EVENT_STREAMS.fullmatch(path) is not None


def is_destructive(method: str, path: str) -> bool:
    """Whether it deletes, fills the disk, or writes configuration."""
    if method == "POST" and re.sub("//+", "/", path) in FILLING_PATHS:
        return True
    return method in CHANGING_METHODS and needed_access(path) == "admin"


def access_errors(method: str, path: str) -> list[type[AccessError]]:
    """How a request to a route may be refused before the route sees it."""
    method, access = method.upper(), needed_access(path)
    errors: list[type[AccessError]] = [] if path in PROBES else [HostRefused]
    if method not in READING_METHODS:
        errors.append(OriginRefused)
    if access != "open":
        errors.append(AdminKeyRefused if access == "admin" else KeyRefused)
    if is_destructive(method, path):
        errors.append(AdminKeyUnset)
    return errors
