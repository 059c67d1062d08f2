"""Which names this machine answers to, and which web pages may use it. Pure.

A page can make its own name resolve to our address and then counts as ours for the browser (DNS
rebinding); only the `Host` header still holds its name. A page of another origin can send us any
request it likes and only may not read the answer; its `Origin` header tells.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

# RFC 9110, section 7.2: uri-host [ ":" port ], where an IPv6 address stands in brackets.
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+(?:%[\w.~-]+)?\]|[^\[\]:/?#@\\\s\x00-\x1f]+)(?::(\d{0,5}))?")
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)")
DEFAULT_PORTS = {"http": "80", "https": "443"}
# The same few are asked for several times with every request.
KNOWN_ADDRESSES = 256
ANY = "*"
ANY_PORT = ":*"


class Authority(NamedTuple):
    """A host in lower case, without the dot at its end, and a port or an empty string."""

    host: str
    port: str


def split_authority(text: str) -> Authority | None:
    """Read ``host:port``; `None` if it is none."""
    match = AUTHORITY.fullmatch(text.strip().lower())
    if match is None:
        return None
    host, port = match.groups()
    return Authority(host.removesuffix("."), port or "")


@lru_cache(maxsize=KNOWN_ADDRESSES)
def is_address(host: str) -> bool:
    """Whether a host is an IP address, which no page can make its own."""
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=KNOWN_ADDRESSES)
def is_loopback(address: str) -> bool:
    """Whether a client's address is this machine."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


class HostRules:
    """The names that the `Host` header may hold.

    Args:
        hostname: The machine's own name.
        allowed: Further ones: ``.lan`` stands for it and all below, ``*`` for any.
    """

    def __init__(self, hostname: str, allowed: Collection[str]) -> None:
        name = hostname.lower().removesuffix(".")
        short = name.partition(".")[0]
        read = [split_authority(entry) for entry in allowed]
        listed = [authority.host for authority in read if authority is not None]
        above = {entry.removeprefix(".") for entry in listed}
        self._names = frozenset({"localhost", name, short, f"{short}.local", *above} - {""})
        self._suffixes = (".localhost", *(entry for entry in listed if entry.startswith(".")))
        self._allows_any = ANY in listed

    def allows(self, header: str) -> bool:
        """Whether a request with this `Host` header is meant for this machine."""
        if self._allows_any:
            return True
        authority = split_authority(header)
        if authority is None:
            return False
        host = authority.host
        return host in self._names or host.endswith(self._suffixes) or is_address(host)


class OriginRules:
    """The web pages that may do more than read what everybody can read.

    Args:
        allowed: Origins; with ``:*`` at the end for any port, or ``*`` for all.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        listed = [entry.strip().lower().removesuffix("/") for entry in allowed]
        self._exact = frozenset(listed)
        hosts = [entry for entry in listed if entry.endswith(ANY_PORT)]
        self._any_port = frozenset(entry.removesuffix(ANY_PORT) for entry in hosts)
        self._allows_any = ANY in listed

    def allows(self, origin: str, host: str | None) -> bool:
        """Whether a request from a page of this origin may do anything.

        Args:
            origin: The `Origin` header.
            host: The `Host` header, for pages of our own.
        """
        origin = origin.strip().lower()
        if self._allows_any or origin in self._exact:
            return True
        match = ORIGIN.fullmatch(origin)
        if match is None:
            return False  # "null" above all: sandboxed frames and files
        scheme, rest = match.groups()
        if scheme not in DEFAULT_PORTS:
            return scheme != "file"  # of an application or an extension; no page has one
        theirs = split_authority(rest)
        if theirs is None:
            return False
        if f"{scheme}://{theirs.host}" in self._any_port:
            return True
        ours = None if host is None else split_authority(host)
        return ours is not None and _with_port(ours, scheme) == _with_port(theirs, scheme)


def _with_port(authority: Authority, scheme: str) -> Authority:
    return Authority(authority.host, authority.port or DEFAULT_PORTS[scheme])
