"""The gate: whether a request may go on to its route, judged from its head alone.

It looks at where a request is addressed (`Host`), which page sent it (`Origin`) and which key it
shows, in this order. Knows no route's handler, waits for nothing and reads no body, so that it can
stand before everything. What is open and what asks for which key says `lmx.schema.access`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import structlog

from lmx.config import SecuritySettings
from lmx.daemon.origin import NOBODY, Caller
from lmx.errors import (
    AccessError,
    AdminKeyRefused,
    AdminKeyUnset,
    HostRefused,
    KeyRefused,
    OriginRefused,
)
from lmx.schema.access import (
    PROBES,
    READING_METHODS,
    is_destructive,
    needed_access,
    takes_query_keys,
)
from lmx.web.hosts import HostRules, OriginRules, is_loopback
from lmx.web.keys import KeyRing, WrongKeys, bearer_key, name_key, query_keys

# Longer paths are cut in the log.
LOGGED_PATH_CHARACTERS = 200

# Where a scope says whose it is.
CALLER = "lmx.caller"
# Where a scope says that its sender may not change anything for good, and why.
RESTRAINT = "lmx.restraint"

LOCAL_ONLY = (
    "Without an admin key this works from the machine itself only; set `security.admin_key`, "
    "or `security.open_admin: true` to let everybody in the network do it"
)

SKILL_RUNS = (
    "A skill that may open connections runs now, and could have sent this; without an admin key it "
    "works when that has ended"
)

log = structlog.get_logger("lmx.web")


class Spellings(NamedTuple):
    """Where a key may stand beside a bearer's: in these headers and, if at all, query fields."""

    headers: tuple[bytes, ...]
    fields: tuple[bytes, ...]


ADMIN_SPELLINGS = Spellings((b"x-admin-key",), (b"admin_key", b"x_admin_key"))
INFERENCE_SPELLINGS = Spellings(
    (b"x-api-key", b"x-admin-key"), (b"api_key", b"admin_key", b"x_admin_key")
)


class Head(NamedTuple):
    """What the gate reads of an ASGI scope; a header that came twice counts with its last value.

    Attributes:
        is_socket: It wants to become a WebSocket.
        address: Of the client; empty if it has none.
        is_local: The client is on this machine.
    """

    is_socket: bool
    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    address: str
    is_local: bool

    def text(self, name: bytes) -> str | None:
        """A header's value, or `None` if it is empty or not there."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value else None

    @property
    def is_preflight(self) -> bool:
        """A browser asks whether a page may send a request; it shows no key."""
        names = self.headers
        return (
            self.method == "OPTIONS"
            and b"origin" in names
            and b"access-control-request-method" in names
        )


def read_head(scope: dict[str, Any]) -> Head:
    """What the gate needs of a scope."""
    is_socket = scope["type"] == "websocket"
    client, server = scope.get("client"), scope.get("server")
    address = client[0] if client else ""
    return Head(
        is_socket,
        "GET" if is_socket else scope["method"],
        scope["path"],
        scope["query_string"],
        dict(scope["headers"]),
        address,
        # A socket without an address is a pipe on this machine.
        not address or is_loopback(address) or (server is not None and address == server[0]),
    )


class _Rules:
    """Settings made ready for comparison."""

    def __init__(self, security: SecuritySettings, hostname: str) -> None:
        self.security = security
        self.hosts = HostRules(hostname, security.allowed_hosts)
        self.origins = OriginRules(security.cors_allowed_origins)
        self.admin = KeyRing(security.admin_keys)
        self.inference = KeyRing(security.inference_keys)


class Gate:
    """Judges requests by the settings in force.

    Args:
        security: The settings in force.
        hostname: The machine's own name.
        clock: Seconds that only grow.
        has_guests: Whether programs run on this machine that count as other machines.
    """

    def __init__(
        self,
        security: Callable[[], SecuritySettings],
        *,
        hostname: str,
        clock: Callable[[], float],
        has_guests: Callable[[], bool] = lambda: False,
    ) -> None:
        self._security = security
        self._has_guests = has_guests
        self._hostname = hostname
        self._wrong = WrongKeys(clock)
        self._made = _Rules(security(), hostname)

    def check(self, scope: dict[str, Any]) -> AccessError | None:
        """Judge an ``http`` or ``websocket`` scope.

        Returns:
            Why it is refused, or `None` if it may go on.
        """
        head, rules = read_head(scope), self._rules()
        return (
            _check_host(head, rules) or _check_origin(head, rules) or self._check_keys(head, rules)
        )

    def allows_origin(self, scope: dict[str, Any]) -> bool:
        """Whether a request comes from a page that may read its answer."""
        head = read_head(scope)
        origin = head.text(b"origin")
        rules = self._rules()
        return origin is not None and rules.origins.allows(origin, head.text(b"host"))

    def identify(self, scope: dict[str, Any]) -> Caller:
        """Whose turn a request takes that may go on.

        A key counts only where one is needed: elsewhere anybody could show a new one each time.
        """
        head, rules = read_head(scope), self._rules()
        if rules.inference:
            for key in _shown_keys(head, rules, INFERENCE_SPELLINGS):
                if rules.admin.opens([key]) or rules.inference.opens([key]):
                    name = name_key(key)
                    return Caller(name, name)
        return Caller(head.address)

    def restrain(self, scope: dict[str, Any]) -> AdminKeyUnset | None:
        """Why a request that may go on may all the same not change anything for good."""
        return self._restraint(read_head(scope), self._rules())

    def _restraint(self, head: Head, rules: _Rules) -> AdminKeyUnset | None:
        if rules.admin or rules.security.open_admin:
            return None
        if not head.is_local:
            return AdminKeyUnset(LOCAL_ONLY)
        return AdminKeyUnset(SKILL_RUNS) if self._has_guests() else None

    def _rules(self) -> _Rules:
        security = self._security()
        if security is not self._made.security:
            self._made = _Rules(security, self._hostname)
        return self._made

    def _check_keys(self, head: Head, rules: _Rules) -> AccessError | None:
        access = needed_access(head.path)
        if access == "open" or head.is_preflight:
            return None
        if access == "admin":
            if not rules.admin:
                is_harmless = not is_destructive(head.method, head.path)
                return None if is_harmless else self._restraint(head, rules)
            shown = _shown_keys(head, rules, ADMIN_SPELLINGS)
            return self._judge(head, rules, shown)
        if not rules.inference:
            return None
        shown = _shown_keys(head, rules, INFERENCE_SPELLINGS)
        return self._judge(head, rules, shown)

    def _judge(self, head: Head, rules: _Rules, shown: list[bytes]) -> AccessError | None:
        is_admin = needed_access(head.path) == "admin"
        kind, name = (AdminKeyRefused, "admin") if is_admin else (KeyRefused, "inference")
        if not shown:
            header = "X-Admin-Key" if is_admin else "X-Api-Key"
            return kind(
                f"This route needs the {name} key, as `Authorization: Bearer KEY` or `{header}`"
            )
        wait_s = self._wrong.wait_s(head.address, rules.security.wrong_keys_per_minute)
        if wait_s:
            return kind(
                f"Too many wrong keys came from {head.address or 'this machine'}; no key from "
                f"there counts for another {wait_s:.0f} s",
                retry_after_s=wait_s,
            )
        opens_admin, opens_inference = rules.admin.opens(shown), rules.inference.opens(shown)
        if opens_admin or (opens_inference and not is_admin):
            return None
        if opens_inference:
            return kind("This route needs the admin key; an inference key does not open it")
        self._wrong.add(head.address)
        path = head.path[:LOGGED_PATH_CHARACTERS]
        log.warning("wrong key", key=name, address=head.address, path=path)
        return kind(f"The {name} key is wrong")


def caller_of(scope: dict[str, Any]) -> Caller:
    """Whose turn a request takes that came in by the door."""
    caller = scope.get(CALLER, NOBODY)
    return caller if isinstance(caller, Caller) else NOBODY


def check_unrestrained(scope: Mapping[str, Any]) -> None:
    """Refuse to change something for good for who may not.

    Raises:
        AdminKeyUnset: The sender may not.
    """
    restraint = scope.get(RESTRAINT)
    if isinstance(restraint, AdminKeyUnset):
        raise restraint


def _check_host(head: Head, rules: _Rules) -> AccessError | None:
    host = head.text(b"host")
    if host is None or head.path in PROBES or rules.hosts.allows(host):
        return None
    return HostRefused(
        f"This machine is not known as {host[:LOGGED_PATH_CHARACTERS]!r}; add the name to "
        "`security.allowed_hosts` if it is one of its names"
    )


def _check_origin(head: Head, rules: _Rules) -> AccessError | None:
    if head.method in READING_METHODS and not head.is_socket:
        return None
    origin = head.text(b"origin")
    if origin is None or rules.origins.allows(origin, head.text(b"host")):
        return None
    return OriginRefused(
        f"Pages of {origin[:LOGGED_PATH_CHARACTERS]!r} may not use this server; add the origin to "
        "`security.cors_allowed_origins` if they should"
    )


def _shown_keys(head: Head, rules: _Rules, spellings: Spellings) -> list[bytes]:
    """Every key that a request shows, wherever it may stand."""
    shown = [head.headers[name] for name in spellings.headers if head.headers.get(name)]
    bearer = bearer_key(head.headers.get(b"authorization", b""))
    if bearer is not None:
        shown.append(bearer)
    takes_fields = head.is_socket or takes_query_keys(head.path)
    if head.query and takes_fields and not _is_foreign(head, rules):
        shown += query_keys(head.query, spellings.fields)
    return shown


def _is_foreign(head: Head, rules: _Rules) -> bool:
    """Whether a page that is not allowed sends this.

    It could show wrong keys in addresses of images until no right key from here counts any more.
    """
    origin = head.text(b"origin")
    if origin is not None:
        return not rules.origins.allows(origin, head.text(b"host"))
    return head.headers.get(b"sec-fetch-site") == b"cross-site"
