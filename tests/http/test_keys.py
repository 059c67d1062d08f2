"""Keys over the wire: every route asks for its own, in every spelling, WebSockets included."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionRejected, open_websocket_url

from lmx.schema.access import needed_access
from lmx.schema.openapi import ROUTES
from lmx.schema.route import Route
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, chat_body

ADMIN, INFERENCE, MORE = "adm-5e1f", "opta_sk_7c2d", "opta_sk_more"
KEYS = {
    "LMX_SECURITY__ADMIN_KEY": ADMIN,
    "LMX_SECURITY__INFERENCE_API_KEY": INFERENCE,
    "LMX_SECURITY__INFERENCE_API_KEYS": f"[{MORE}]",
}
CLOSED = [route for route in ROUTES if needed_access(route.path) != "open"]
OPEN = [route for route in ROUTES if needed_access(route.path) == "open"]
# Spellings under which a router might still find a route.
DISGUISES = [
    "//admin/status",
    "///admin/status",
    "/%61dmin/status",
    "/admin%2Fstatus",
    "/%2Fadmin/status",
    "/%2561dmin/status",
    "/./admin/status",
    "/v1/../admin/status",
    "/admin/ui/../status",
    "/admin/ui/%2e%2e/status",
    "/admin/status/",
    "/admin//status",
    "/admin/status?x=1",
    "/admin/status;x",
    "/healthz/../admin/status",
    "/healthz/..%2fadmin/status",
    "http://lmx/admin/status",
    "http://lmx//admin/status",
    "http://localhost%2Fadmin%2Fstatus",
    "http:///admin/status",
    "/Admin/status",
    "/admin/status%00",
    "/admin\\status",
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with keys of both kinds, whom wrong ones never make wait."""
    settings = {**KEYS, "LMX_SECURITY__WRONG_KEYS_PER_MINUTE": "0"}
    with shared_daemon(tmp_path_factory.mktemp("home"), "fake:x", settings=settings) as shared:
        yield shared


def ask(
    daemon: Daemon, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> Reply:
    """One request on a connection of its own; underscores in header names are hyphens."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    with Connection(daemon) as connection:
        return connection.ask(method, path, body, headers=fields)


def check_refused(reply: Reply, *, status: int, code: str = "unauthorized") -> None:
    """The refusal has the envelope of all errors and says how to go on."""
    assert status == reply.status
    assert (code, code) == (reply.json()["code"], reply.json()["error"]["code"])
    assert reply.json()["error"]["message"]
    assert reply.headers["x-request-id"]
    assert ("Bearer" if status == 401 else None) == reply.headers.get("www-authenticate")


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_closed(daemon: Daemon, route: Route) -> None:
    """Without a key, and with a wrong one, nobody gets behind the door, whatever the body."""
    status = 403 if needed_access(route.path) == "admin" else 401
    path, method = route.path.replace("{model}", "x"), route.method.upper()
    body = b"no json" if method == "POST" else None
    check_refused(ask(daemon, path, method=method, body=body), status=status)
    check_refused(
        ask(daemon, path, method=method, body=body, authorization="Bearer no"), status=status
    )


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_opens(daemon: Daemon, route: Route) -> None:
    """With its key every route is reached: what it says then is its own."""
    path, method = route.path.replace("{model}", "no-such"), route.method.upper()
    key = {"x_admin_key": ADMIN} if needed_access(path) == "admin" else {"x_api_key": INFERENCE}
    reply = ask(daemon, path, method=method, body=b"1" if method == "POST" else None, **key)
    assert reply.status not in {401, 403}


@pytest.mark.parametrize("route", OPEN, ids=lambda route: f"{route.method} {route.path}")
def test_open_routes_stay_open(daemon: Daemon, route: Route) -> None:
    """Without a key and with a wrong one."""
    assert 200 == ask(daemon, route.path).status
    assert 200 == ask(daemon, route.path, x_admin_key="no", authorization="Bearer no").status


def test_pages_stay_open(daemon: Daemon) -> None:
    """The description and its page hold no secrets."""
    assert 200 == ask(daemon, "/docs").status
    assert 200 == ask(daemon, "/openapi.json").status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/admin/status", {"x_admin_key": ADMIN}, 200),
        ("/admin/status", {"X_ADMIN_KEY": ADMIN}, 200),
        ("/admin/status", {"authorization": f"Bearer {ADMIN}"}, 200),
        ("/admin/status", {"authorization": f"bearer  {ADMIN} "}, 200),
        ("/admin/status", {"x_admin_key": ADMIN, "authorization": f"Bearer {INFERENCE}"}, 200),
        ("/admin/status", {"x_api_key": ADMIN}, 403),
        ("/admin/status", {"authorization": f"Bearer {INFERENCE}"}, 403),
        ("/admin/status", {"authorization": f"Basic {ADMIN}"}, 403),
        ("/admin/status", {"x_admin_key": ADMIN[:-1]}, 403),
        ("/admin/status", {"x_admin_key": ADMIN + "x"}, 403),
        (f"/admin/status?admin_key={ADMIN}", {}, 403),
        ("/v1/models", {"authorization": f"Bearer {INFERENCE}"}, 200),
        ("/v1/models", {"authorization": f"Bearer {MORE}"}, 200),
        ("/v1/models", {"x_api_key": INFERENCE}, 200),
        ("/v1/models", {"authorization": f"Bearer {ADMIN}"}, 200),
        ("/v1/models", {"x_admin_key": ADMIN}, 200),
        ("/v1/models", {"x_api_key": ADMIN}, 200),
        ("/v1/models", {"x_api_key": "no", "authorization": f"Bearer {INFERENCE}"}, 200),
        ("/v1/models", {"authorization": "Bearer opta-lmx"}, 401),
        (f"/v1/models?api_key={INFERENCE}", {}, 401),
        ("/nowhere", {}, 401),
        ("/nowhere", {"x_api_key": INFERENCE}, 404),
        ("/admin/nowhere", {}, 403),
        ("/metrics", {}, 403),
        ("/admin/ui/", {}, 200),
        ("/admin/events", {}, 403),
        ("/admin/events?admin_key=no", {}, 403),
        (f"/admin/events?admin_key={ADMIN}", {}, 200),
        (f"/admin/events?x_admin_key={ADMIN}", {}, 200),
    ],
)
def test_spellings(daemon: Daemon, path: str, headers: dict[str, str], *, status: int) -> None:
    """Where a key may stand, and where not."""
    assert status == ask(daemon, path, **headers).status


@pytest.mark.parametrize("target", DISGUISES)
@pytest.mark.parametrize("headers", [{}, {"x_api_key": INFERENCE}])
def test_disguised_paths_open_nothing(daemon: Daemon, target: str, headers: dict[str, str]) -> None:
    """No spelling of an admin path is served without the admin key, not by a redirect either."""
    reply = ask(daemon, target, **headers)
    assert reply.status in {308, 400, 401, 403, 404}
    assert b"uptime_seconds" not in reply.body
    if reply.status == 308:
        location = reply.headers["location"]
        assert 403 == ask(daemon, location.partition("lmx")[2] or location, **headers).status


def test_a_refused_body_is_dropped(daemon: Daemon) -> None:
    """Whoever sends megabytes for nothing still gets the answer, and the connection goes on."""
    with Connection(daemon) as connection:
        for _ in range(2):
            reply = connection.ask("POST", CHAT_PATH, b"x" * 3_000_000)
            check_refused(reply, status=401)
        reply = connection.ask(
            "POST", CHAT_PATH, chat_body("x"), headers={"authorization": f"Bearer {INFERENCE}"}
        )
        assert 200 == reply.status


def test_head_is_judged_like_get(daemon: Daemon) -> None:
    """A refusal to `HEAD` has no body."""
    with Connection(daemon) as connection:
        connection.send(b"HEAD /v1/models HTTP/1.1\r\nhost: lmx\r\n\r\n")
        assert 401 == connection.read_head().status
        assert 200 == connection.ask("GET", "/healthz").status


def test_too_many_wrong_keys(tmp_path: Path) -> None:
    """Their address waits: no key counts, which is told with a time; open routes go on."""
    settings = {**KEYS, "LMX_SECURITY__WRONG_KEYS_PER_MINUTE": "3"}
    with shared_daemon(tmp_path, "fake:x", settings=settings) as limited:
        for _ in range(5):
            check_refused(ask(limited, "/admin/status"), status=403)
        for _ in range(3):
            reply = ask(limited, "/admin/status", x_admin_key="guess")
            check_refused(reply, status=403)
            assert "retry-after" not in reply.headers
        for path, status in [("/admin/status", 403), ("/v1/models", 401)]:
            reply = ask(limited, path, x_admin_key=ADMIN)
            check_refused(reply, status=status)
            assert 50 <= int(reply.headers["retry-after"]) <= 60
            assert "Too many wrong keys" in reply.json()["error"]["message"]
        assert 200 == ask(limited, "/healthz", x_admin_key=ADMIN).status
        lines = limited.events("wrong key")
        assert [("admin", "127.0.0.1", "/admin/status")] * 3 == [
            (line["key"], line["address"], line["path"]) for line in lines
        ]


def test_keys_of_one_kind(tmp_path: Path) -> None:
    """An admin key alone leaves `/v1` open to the CLI's placeholder."""
    settings = {"LMX_SECURITY__ADMIN_KEY": ADMIN}
    with shared_daemon(tmp_path, "fake:x", settings=settings) as half:
        assert 200 == ask(half, "/v1/models", authorization="Bearer opta-lmx").status
        check_refused(ask(half, "/admin/models"), status=403)
        check_refused(ask(half, "/admin/models/x", method="DELETE"), status=403)


async def upgrade(
    daemon: Daemon, path: str, *headers: tuple[bytes, bytes]
) -> tuple[int, dict[str, str], bytes]:
    """How an upgrade ends: status, headers and body of a refusal, or 101."""
    url = f"ws://{daemon.host}:{daemon.port}{path}"
    with trio.fail_after(10):
        try:
            async with open_websocket_url(url, extra_headers=list(headers)):
                return 101, {}, b""
        except ConnectionRejected as error:
            named = {name.decode(): value.decode() for name, value in error.headers}
            return error.status_code, named, error.body or b""


SOCKETS = ["/v1/chat/stream", "/ws/stream"]


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", []),
        ("", [(b"authorization", b"Bearer no")]),
        ("?api_key=no", []),
        ("?key=" + INFERENCE, []),
    ],
)
async def test_upgrades_are_refused(
    daemon: Daemon, path: str, query: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """Before they are accepted, with the status and the body that any request would get."""
    status, named, body = await upgrade(daemon, path + query, *headers)
    assert 401 == status
    assert ("Bearer", "application/json") == (named["www-authenticate"], named["content-type"])
    assert named["x-request-id"]
    assert "unauthorized" == json.loads(body)["code"] == json.loads(body)["error"]["code"]


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", [(b"authorization", b"Bearer " + INFERENCE.encode())]),
        ("", [(b"x-api-key", INFERENCE.encode())]),
        ("", [(b"x-admin-key", ADMIN.encode())]),
        (f"?api_key={INFERENCE}", []),
        (f"?admin_key={ADMIN}", []),
        (f"?x_admin_key={ADMIN}", []),
    ],
)
async def test_upgrades_pass(
    daemon: Daemon, path: str, query: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """With a key in a header, or in the query string, as browsers have to."""
    status, _, _ = await upgrade(daemon, path + query, *headers)
    assert 101 == status


async def test_upgrades_of_foreign_pages_are_refused(daemon: Daemon) -> None:
    """No page elsewhere talks to models through the reader's browser, whatever key it has."""
    key = (b"authorization", b"Bearer " + INFERENCE.encode())
    path = SOCKETS[0]
    status, _, body = await upgrade(daemon, path, key, (b"origin", b"https://evil.example"))
    assert (403, "origin-not-allowed") == (status, json.loads(body)["code"])
    status, _, _ = await upgrade(daemon, path, key, (b"origin", b"http://localhost:3000"))
    assert 101 == status
