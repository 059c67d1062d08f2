"""The gate's decisions, from ASGI scopes alone."""

import hashlib
from typing import Any

import pytest

from lmx.config import SecuritySettings
from lmx.daemon.origin import Caller
from lmx.errors import (
    AccessError,
    AdminKeyRefused,
    AdminKeyUnset,
    HostRefused,
    KeyRefused,
    OriginRefused,
)
from lmx.web.auth import RESTRAINT, Gate, check_unrestrained

OPEN = SecuritySettings()
ADMIN = SecuritySettings(admin_key="adm")
INFERENCE = SecuritySettings(inference_api_key="inf", inference_api_keys=("more",))
BOTH = SecuritySettings(admin_key="adm", inference_api_key="inf")
LAN = "192.168.1.5"
EVIL = (b"origin", b"https://evil.example")
CHAT, STATUS, EVENTS = "/v1/chat/completions", "/admin/status", "/admin/events"
SOCKET = "/v1/chat/stream"
RUN_EVENTS = "/v1/agents/runs/r/events"


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SecurityInForce:
    """Settings in force that the test replaces."""

    def __init__(self, security: SecuritySettings) -> None:
        self.security = security

    def __call__(self) -> SecuritySettings:
        return self.security


def gate(security: SecuritySettings, clock: Clock | None = None) -> Gate:
    """A gate of a machine called studio."""
    return Gate(SecurityInForce(security), hostname="studio", clock=clock or Clock())


def scope(
    path: str,
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    query: bytes = b"",
    client: str | None = LAN,
) -> dict[str, Any]:
    """An ``http`` scope; a method of ``SOCKET`` makes it a WebSocket's."""
    return {
        "type": "websocket" if method == "SOCKET" else "http",
        **({} if method == "SOCKET" else {"method": method}),
        "path": path,
        "query_string": query,
        "headers": [(b"host", b"studio:1234"), *headers],
        "client": None if client is None else (client, 4),
        "server": ("192.168.1.9", 1234),
    }


def judge(security: SecuritySettings, judged: dict[str, Any]) -> type[AccessError] | None:
    """The kind of refusal, if it is one."""
    refusal = gate(security).check(judged)
    return None if refusal is None else type(refusal)


def bearer(key: bytes) -> tuple[bytes, bytes]:
    """A key as most clients send it."""
    return b"authorization", b"Bearer " + key


def admin_header(key: bytes) -> tuple[bytes, bytes]:
    """The admin key as the Opta CLI sends it."""
    return b"x-admin-key", key


def api_header(key: bytes) -> tuple[bytes, bytes]:
    """The inference key in a header of its own."""
    return b"x-api-key", key


@pytest.mark.parametrize("path", [CHAT, STATUS, EVENTS, "/metrics", "/mcp", "/"])
@pytest.mark.parametrize(
    "headers", [(), (bearer(b"opta-lmx"),), (admin_header(b"x"), api_header(b"y"))]
)
def test_without_keys_everything_is_open(
    path: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    """Whatever key is sent is ignored."""
    assert None is judge(OPEN, scope(path, *headers))


def test_without_an_inference_key_its_routes_are_open() -> None:
    """An admin key alone closes `/admin` and nothing else; wrong keys elsewhere do not count."""
    closed = gate(ADMIN)
    for _ in range(50):
        assert None is closed.check(scope(CHAT, bearer(b"opta-lmx")))
    assert None is closed.check(scope(STATUS, admin_header(b"adm")))
    assert AdminKeyRefused is judge(ADMIN, scope(STATUS))
    assert AdminKeyRefused is judge(ADMIN, scope("/metrics"))
    assert None is judge(INFERENCE, scope(STATUS))


@pytest.mark.parametrize(
    ("path", "headers", "query", "is_open"),
    [
        (STATUS, [admin_header(b"adm")], b"", True),
        (STATUS, [bearer(b"adm")], b"", True),
        (STATUS, [admin_header(b"adm"), bearer(b"inf"), api_header(b"inf")], b"", True),
        (STATUS, [admin_header(b"wrong"), bearer(b"adm")], b"", True),
        (STATUS, [api_header(b"adm")], b"", False),
        (STATUS, [admin_header(b"inf")], b"", False),
        (STATUS, [bearer(b"inf")], b"", False),
        (STATUS, [admin_header(b"")], b"", False),
        (STATUS, [], b"admin_key=adm", False),
        (EVENTS, [], b"admin_key=adm", True),
        (EVENTS, [], b"x_admin_key=adm", True),
        (EVENTS, [], b"api_key=adm", False),
        (EVENTS, [], b"api_key=inf", False),
        (EVENTS, [EVIL], b"admin_key=adm", False),
        (EVENTS, [(b"origin", b"http://localhost:3000")], b"admin_key=adm", True),
        (EVENTS, [(b"sec-fetch-site", b"cross-site")], b"admin_key=adm", False),
        (CHAT, [bearer(b"inf")], b"", True),
        (CHAT, [api_header(b"inf")], b"", True),
        (CHAT, [admin_header(b"adm")], b"", True),
        (CHAT, [bearer(b"adm")], b"", True),
        (CHAT, [api_header(b"adm")], b"", True),
        (CHAT, [bearer(b"wrong")], b"", False),
        (CHAT, [], b"api_key=inf", False),
        (RUN_EVENTS, [], b"api_key=inf", True),
        (RUN_EVENTS, [], b"admin_key=adm", True),
        (RUN_EVENTS, [], b"x_admin_key=adm", True),
        ("//admin/status", [bearer(b"inf")], b"", False),
        ("/nowhere", [], b"", False),
    ],
)
def test_spellings(
    path: str, headers: list[tuple[bytes, bytes]], *, query: bytes, is_open: bool
) -> None:
    """Each key opens its routes in each of its spellings and nowhere else."""
    assert is_open == (judge(BOTH, scope(path, *headers, query=query)) is None)


@pytest.mark.parametrize("query", [b"api_key=inf", b"admin_key=adm", b"x_admin_key=adm"])
def test_sockets_take_keys_from_the_query_string(query: bytes) -> None:
    """Browsers can set no headers there."""
    assert None is judge(BOTH, scope(SOCKET, method="SOCKET", query=query))
    assert KeyRefused is judge(BOTH, scope(SOCKET, method="SOCKET"))
    assert KeyRefused is judge(BOTH, scope(SOCKET, method="SOCKET", query=query + b"x"))


def test_every_inference_key_opens() -> None:
    """There may be several."""
    assert None is judge(INFERENCE, scope(CHAT, bearer(b"more")))


def test_empty_keys_are_none() -> None:
    """An empty key in the settings closes nothing, and blanks around one do not count."""
    blank = SecuritySettings(admin_key="", inference_api_key=" ", inference_api_keys=("",))
    assert None is judge(blank, scope(STATUS))
    assert None is judge(blank, scope(CHAT))
    padded = SecuritySettings(admin_key=" adm\n")
    assert None is judge(padded, scope(STATUS, admin_header(b"adm")))


def test_wrong_keys_make_an_address_wait() -> None:
    """Then no key from there counts, the right one included; other addresses go on."""
    clock = Clock()
    closed = gate(BOTH, clock)
    for _ in range(10):
        refusal = closed.check(scope(STATUS, admin_header(b"guess")))
        assert refusal is not None
        assert refusal.retry_after_s is None
    for path, key, kind in [(STATUS, b"adm", AdminKeyRefused), (CHAT, b"inf", KeyRefused)]:
        refusal = closed.check(scope(path, bearer(key)))
        assert kind is type(refusal)
        assert refusal is not None
        assert 60 == refusal.retry_after_s
        assert "wrong keys" in refusal.message
        assert LAN in refusal.message
    assert None is closed.check(scope(STATUS, bearer(b"adm"), client="192.168.1.6"))
    assert None is closed.check(scope("/healthz", bearer(b"adm")))
    clock.now_s = 60.0
    assert None is closed.check(scope(STATUS, bearer(b"adm")))


def test_what_is_no_guess_does_not_count() -> None:
    """Missing keys, and right ones in the wrong place."""
    closed = gate(BOTH)
    for _ in range(20):
        assert closed.check(scope(STATUS)) is not None
        assert closed.check(scope(STATUS, bearer(b"inf"))) is not None
        assert closed.check(scope(EVENTS, EVIL, query=b"admin_key=guess")) is not None
        assert closed.check(scope(CHAT, EVIL, bearer(b"guess"), method="POST")) is not None
    assert None is closed.check(scope(STATUS, bearer(b"adm")))


def test_the_limit_is_a_setting() -> None:
    """0 is no limit."""
    endless = gate(SecuritySettings(admin_key="adm", wrong_keys_per_minute=0))
    for _ in range(100):
        assert endless.check(scope(STATUS, bearer(b"guess"))) is not None
    assert None is endless.check(scope(STATUS, bearer(b"adm")))


def test_messages_hold_no_keys() -> None:
    """Neither configured ones nor those sent."""
    closed = gate(SecuritySettings(admin_key="k-1", inference_api_key="k-2"))
    for key in (b"k-2", b"k-3") * 12:
        refusal = closed.check(scope(STATUS, admin_header(key), bearer(key)))
        assert refusal is not None
        assert "k-" not in refusal.message


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_without_an_admin_key_other_hosts_destroy_nothing(method: str) -> None:
    """From the machine itself they may, and everywhere if the settings say so."""
    path = "/admin/models/x"
    assert AdminKeyUnset is judge(OPEN, scope(path, method=method))
    assert AdminKeyUnset is judge(INFERENCE, scope(path, bearer(b"inf"), method=method))
    assert AdminKeyUnset is judge(OPEN, scope("/" + path, method=method))
    for local in ("127.0.0.1", "::1", "192.168.1.9", None):
        assert None is judge(OPEN, scope(path, method=method, client=local))
    assert None is judge(SecuritySettings(open_admin=True), scope(path, method=method))
    assert None is judge(ADMIN, scope(path, bearer(b"adm"), method=method))
    assert None is judge(OPEN, scope("/admin/models/load", method="POST"))
    assert None is judge(OPEN, scope(STATUS))


def test_without_an_admin_key_other_hosts_are_restrained() -> None:
    """Requests that go on say whether they may change something for good."""

    def restraint(security: SecuritySettings, client: str | None = "192.168.1.7") -> object:
        asked = scope("/admin/models/load", method="POST", client=client)
        return Gate(lambda: security, hostname="lmx", clock=lambda: 0.0).restrain(asked)

    assert isinstance(restraint(OPEN), AdminKeyUnset)
    assert isinstance(restraint(INFERENCE), AdminKeyUnset)
    assert None is restraint(OPEN, "127.0.0.1")
    assert None is restraint(ADMIN)
    assert None is restraint(SecuritySettings(open_admin=True))
    with pytest.raises(AdminKeyUnset):
        check_unrestrained({RESTRAINT: restraint(OPEN)})
    check_unrestrained({RESTRAINT: None})


def test_while_it_has_guests_the_machine_counts_as_another() -> None:
    """What a skill may have sent is held to what other hosts may do."""

    def judged(security: SecuritySettings) -> Gate:
        return Gate(lambda: security, hostname="studio", clock=Clock(), has_guests=lambda: True)

    asked = scope("/admin/models/x", method="DELETE", client="127.0.0.1")
    assert isinstance(judged(OPEN).check(asked), AdminKeyUnset)
    assert isinstance(judged(OPEN).restrain(asked), AdminKeyUnset)
    assert None is judged(OPEN).check(scope(STATUS, client="127.0.0.1"))
    assert None is judged(SecuritySettings(open_admin=True)).check(asked)


def test_foreign_hosts() -> None:
    """A name that is not ours is refused before anything else, but for probes."""
    foreign = scope(CHAT, bearer(b"inf"))
    foreign["headers"][0] = (b"host", b"evil.example:1234")
    assert HostRefused is judge(BOTH, foreign)
    assert HostRefused is judge(OPEN, {**foreign, "path": "/v1/discovery"})
    assert HostRefused is judge(OPEN, {**foreign, "type": "websocket", "path": SOCKET})
    for probe in ("/healthz", "/readyz", "/health"):
        assert None is judge(BOTH, {**foreign, "path": probe})
    assert None is judge(OPEN, {**foreign, "headers": []})
    assert None is judge(OPEN, {**foreign, "headers": [(b"host", b"")]})


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("GET", None),
        ("HEAD", None),
        ("OPTIONS", None),
        ("POST", OriginRefused),
        ("DELETE", OriginRefused),
        ("SOCKET", OriginRefused),
    ],
)
def test_foreign_pages(method: str, expected: type[AccessError] | None) -> None:
    """They may send what changes nothing; browsers keep the answers from them."""
    assert expected is judge(OPEN, scope(CHAT, EVIL, method=method))
    assert None is judge(OPEN, scope(CHAT, (b"origin", b"http://studio:1234"), method=method))
    assert None is judge(OPEN, scope(CHAT, (b"origin", b"http://localhost:1"), method=method))


def test_preflights_need_no_key() -> None:
    """Browsers send none; an `OPTIONS` that is no preflight needs one."""
    asks = (b"access-control-request-method", b"POST")
    for origin in (EVIL, (b"origin", b"http://localhost:3000")):
        assert None is judge(BOTH, scope(STATUS, origin, asks, method="OPTIONS"))
    assert AdminKeyRefused is judge(BOTH, scope(STATUS, asks, method="OPTIONS"))
    assert KeyRefused is judge(BOTH, scope(CHAT, EVIL, method="OPTIONS"))


def test_settings_take_effect_at_once() -> None:
    """The next request is judged by what is in force then."""
    settings = SecurityInForce(OPEN)
    live = Gate(settings, hostname="studio", clock=Clock())
    assert None is live.check(scope(CHAT))
    settings.security = INFERENCE
    assert live.check(scope(CHAT)) is not None
    settings.security = OPEN
    assert None is live.check(scope(CHAT))


def test_with_keys_a_caller_is_its_key() -> None:
    """The same in every spelling, from any address; another key is another caller."""
    spellings = [bearer(b"inf"), api_header(b"inf"), admin_header(b"inf")]
    callers = [gate(INFERENCE).identify(scope(CHAT, header)) for header in spellings]
    callers.append(gate(INFERENCE).identify(scope(CHAT, api_header(b"inf"), client="10.0.0.1")))
    assert 1 == len(set(callers))
    other = gate(INFERENCE).identify(scope(CHAT, bearer(b"more")))
    assert other not in callers
    assert "" not in {other.salt, callers[0].salt}
    assert gate(BOTH).identify(scope(CHAT, admin_header(b"adm"))) not in callers


def test_a_caller_is_not_its_wrong_keys() -> None:
    """Beside the right one, others change nothing."""
    right = gate(INFERENCE).identify(scope(CHAT, bearer(b"inf")))
    assert right == gate(INFERENCE).identify(scope(CHAT, api_header(b"x"), bearer(b"inf")))


def test_a_caller_does_not_tell_its_key() -> None:
    """Neither the key nor the digest that keys are compared by can be read from it."""
    caller = gate(INFERENCE).identify(scope(CHAT, bearer(b"inf")))
    said = f"{caller.client} {caller.salt}"
    assert "inf" not in said
    assert hashlib.sha256(b"inf").hexdigest()[:8] not in said


@pytest.mark.parametrize("security", [OPEN, ADMIN])
def test_without_inference_keys_a_caller_is_its_address(security: SecuritySettings) -> None:
    """A key that opens nothing makes nobody somebody else, and everybody shares one salt."""
    shown = bearer(b"opta-lmx")
    assert Caller(LAN, "") == gate(security).identify(scope(CHAT, shown))
    assert Caller("", "") == gate(security).identify(scope(CHAT, shown, client=None))
