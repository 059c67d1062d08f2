"""Which daemon a command talks to, and with which keys.

The command line goes before the environment, the environment before the settings. Keys from this
machine's settings are only for a daemon on this machine: another host must not be told them.
"""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from lmx.cli.exits import CommandFailed, Exit
from lmx.config import Settings, load_settings
from lmx.errors import ConfigError

DEFAULT_PORT = 1234
URL_VARIABLES = ("OPTA_LMX_URL", "LMX_URL")
ADMIN_KEY_VARIABLES = ("OPTA_ADMIN_KEY", "OPTA_LMX_ADMIN_KEY", "LMX_ADMIN_KEY")
API_KEY_VARIABLES = ("OPTA_API_KEY", "LMX_API_KEY")
# Addresses that mean every one of this machine; from here the loopback one is as good.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104


class Target(Struct, frozen=True):
    """A daemon.

    Attributes:
        url: Such as ``http://127.0.0.1:1234``, without a path.
        admin_key: Opens ``/admin``; empty without one.
        api_key: Opens ``/v1``; empty without one.
    """

    url: str
    admin_key: str = ""
    api_key: str = ""

    def headers(self) -> dict[bytes, bytes]:
        """What shows the keys, in UTF-8 as the daemon reads them."""
        found = {b"X-Admin-Key": self.admin_key, b"X-Api-Key": self.api_key}
        return {name: key.encode() for name, key in found.items() if key}

    def __repr__(self) -> str:
        return f"Target({self.url})"  # never the keys


def find_target(
    url: str | None = None,
    admin_key: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Target:
    """The daemon that is meant.

    Args:
        url: From the command line: an address, ``HOST:PORT`` or ``:PORT``.
        admin_key: From the command line.
        environment: Environment variables.

    Raises:
        CommandFailed: The address is none, or a key cannot be one.
        ConfigError: Nobody says where it is, and the settings that would cannot be read.
    """
    asked = url or _first(environment, URL_VARIABLES)
    settings = _settings(environment, is_needed=not asked)
    address = parse_url(asked) if settings is None or asked else own_url(settings)
    admin_key = admin_key or _first(environment, ADMIN_KEY_VARIABLES)
    api_key = _first(environment, API_KEY_VARIABLES)
    if settings is not None and (not asked or is_loopback(address)):
        security = settings.security
        admin_key = admin_key or next(iter(security.admin_keys), "")
        api_key = api_key or next(iter(security.inference_keys), "")
    return Target(address, _checked_key(admin_key), _checked_key(api_key))


def parse_url(text: str) -> str:
    """An address as people type it, made whole.

    Raises:
        CommandFailed: It is none.
    """
    whole = text if "://" in text else f"http://{text if text[:1] != ':' else f'127.0.0.1{text}'}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise _no_address(text) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _no_address(text)
    if port is None and parts.scheme == "http":
        port = DEFAULT_PORT
    return _join(parts, port)


def own_url(settings: Settings) -> str:
    """Where a daemon with these settings answers on this machine."""
    host = ANY_ADDRESS.get(settings.server.host, settings.server.host)
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{settings.server.port}"


def is_loopback(url: str) -> bool:
    """Whether an address is this machine, by itself and without asking anybody."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _settings(environment: Mapping[str, str], *, is_needed: bool) -> Settings | None:
    try:
        return load_settings(environment=environment)
    except ConfigError:
        if is_needed:
            raise
        return None


def _checked_key(key: str) -> str:
    """A key without blanks around it, which no header carries.

    Raises:
        CommandFailed: It holds a line end or the like; the message does not hold the key.
    """
    key = key.strip()
    if not key.isprintable():
        raise CommandFailed("a key holds what no header can carry", Exit.USAGE, "usage")
    return key


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _join(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _no_address(text: str) -> CommandFailed:
    return CommandFailed(f"{text!r} is no address of a daemon", Exit.USAGE, "usage")
