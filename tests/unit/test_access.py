"""Which key a path asks for, whatever way it is spelled."""

import pytest

from lmx.errors import (
    AccessError,
    AdminKeyRefused,
    AdminKeyUnset,
    HostRefused,
    KeyRefused,
    OriginRefused,
)
from lmx.schema.access import (
    Access,
    access_errors,
    is_destructive,
    needed_access,
    takes_query_keys,
)

PATHS: list[tuple[str, Access]] = [
    ("/", "open"),
    ("/healthz", "open"),
    ("/readyz", "open"),
    ("/health", "open"),
    ("/.well-known/opta-lmx", "open"),
    ("/v1/discovery", "open"),
    ("/docs", "open"),
    ("/openapi.json", "open"),
    ("/admin/ui", "open"),
    ("/admin/ui/", "open"),
    ("/admin/ui/app.js", "open"),
    ("/admin/ui/../status", "admin"),
    ("/admin/ui/..", "admin"),
    ("/admin/uix", "admin"),
    ("/admin", "admin"),
    ("/admin/", "admin"),
    ("/admin/status", "admin"),
    ("/admin/status/", "admin"),
    ("/admin/models/healthz", "admin"),
    ("//admin/status", "admin"),
    ("///admin///status", "admin"),
    ("/admin//ui/x", "open"),
    ("/metrics", "admin"),
    ("//metrics", "admin"),
    ("/metrics/", "inference"),
    ("/v1/models", "inference"),
    ("/v1/models/a/../../admin/status", "inference"),
    ("/v1/chat/stream", "inference"),
    ("/v1/discovery/", "inference"),
    ("//healthz", "inference"),
    ("/healthz/", "inference"),
    ("/tokenize", "inference"),
    ("/v2/rerank", "inference"),
    ("/mcp", "inference"),
    ("/mcp/resources/read", "inference"),
    ("/ws/stream", "inference"),
    ("/Admin/status", "inference"),
    ("/anything", "inference"),
    ("", "inference"),
    ("*", "inference"),
]


@pytest.mark.parametrize(("path", "access"), PATHS)
def test_what_a_path_asks_for(path: str, access: Access) -> None:
    """Only what is listed is open; slashes that routers merge change nothing."""
    assert access == needed_access(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/admin/events", True),
        ("/v1/agents/runs/r1/events", True),
        ("/admin/status", False),
        ("/admin/events/x", False),
        ("/v1/agents/runs", False),
        ("/v1/chat/completions", False),
    ],
)
def test_where_the_query_string_may_hold_a_key(path: str, *, expected: bool) -> None:
    """On event streams, because browsers can set no header there, and nowhere else."""
    assert expected == takes_query_keys(path)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("DELETE", "/admin/models/x", True),
        ("DELETE", "//admin/models/x", True),
        ("PUT", "/admin/config", True),
        ("PATCH", "/admin/config", True),
        ("POST", "/admin/models/download", True),
        ("POST", "//admin/models/load//confirm", True),
        ("POST", "/admin/quantize", True),
        ("GET", "/admin/quantize", False),
        ("POST", "/admin/models/load", False),
        ("POST", "/admin/config/reload", False),
        ("GET", "/admin/status", False),
        ("DELETE", "/v1/rag/collections/x", False),
    ],
)
def test_what_is_destructive(method: str, path: str, *, expected: bool) -> None:
    """Deleting, writing and filling the disk; loads, unloads and reloads can be undone."""
    assert expected == is_destructive(method, path)


@pytest.mark.parametrize(
    ("method", "path", "errors"),
    [
        ("get", "/healthz", []),
        ("get", "/v1/discovery", [HostRefused]),
        ("get", "/v1/models", [HostRefused, KeyRefused]),
        ("post", "/tokenize", [HostRefused, OriginRefused, KeyRefused]),
        ("get", "/admin/status", [HostRefused, AdminKeyRefused]),
        (
            "delete",
            "/admin/models/{model}",
            [HostRefused, OriginRefused, AdminKeyRefused, AdminKeyUnset],
        ),
    ],
)
def test_how_a_route_refuses(method: str, path: str, errors: list[type[AccessError]]) -> None:
    """The description of a route lists what the gate may answer in its place."""
    assert errors == access_errors(method, path)
