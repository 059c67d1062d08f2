"""Checks of ``lmx doctor`` that ask the daemon: whether it answers and takes the key."""

import errno
import socket
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from lmx.cli.client import Client
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.finding import Finding, fail, ok, warn

PROBE_S = 2.5
# What `/healthz` owes its callers.
PROMPT_S = 0.25
GOOD = 200
NAME = "daemon"


class Health(Struct, frozen=True):
    """What came of asking whether the daemon lives.

    Attributes:
        finding: In words.
        answers: It is an LMX and answers.
        clock_s: The daemon's time in epoch seconds, if it told.
    """

    finding: Finding
    answers: bool = False
    clock_s: float | None = None


def check_daemon(client: Client) -> Health:
    """Ask ``/healthz``; if nobody answers, look who has the port."""
    url = client.target.url
    begun_s = time.monotonic()
    try:
        response = client.probe("/healthz", timeout_s=PROBE_S)
    except CommandFailed as failure:
        return Health(_nobody(url, failure))
    took_s = time.monotonic() - begun_s
    document = _document(response)
    if response.status_code != GOOD or "version" not in document:
        return Health(_stranger(url))
    clock_s = _clock(response.headers.get("date"))
    found = f"LMX {document['version']} answers at {url} after {1000 * took_s:.0f} ms"
    if document.get("status") != "ok" or took_s > PROMPT_S:
        advice = "look at `lmx logs` and at the load of the machine"
        return Health(warn(NAME, found, advice), answers=True, clock_s=clock_s)
    return Health(ok(NAME, found), answers=True, clock_s=clock_s)


def check_key(client: Client) -> tuple[int, Finding]:
    """How many models are loaded, and whether the key opens the admin routes."""
    try:
        document = client.get("/admin/status", timeout_s=PROBE_S)
    except CommandFailed as failure:
        if failure.status is not Exit.REFUSED:
            return 0, fail("key", failure.message, "look at `lmx logs`")
        said = "a wrong key" if client.target.admin_key else "no key"
        return 0, fail(
            "key",
            f"the daemon refuses {said}: {failure.message}",
            "give the one in security.admin_key of the daemon's settings, with --admin-key or "
            "OPTA_ADMIN_KEY",
        )
    return int(document["loaded_models"]), ok("key", "the admin routes are open")


def _nobody(url: str, failure: CommandFailed) -> Finding:
    if failure.code == "timeout":
        advice = "end it with `kill -9` and look into its log; it is no longer alive inside"
        return fail(NAME, f"something at {url} takes connections and says nothing", advice)
    if _is_taken(url):
        return _stranger(url)
    advice = "`lmx serve` or `lmx service start` starts it; --url names another address"
    return fail(NAME, f"no daemon answers at {url}", advice)


def _stranger(url: str) -> Finding:
    port = urlsplit(url).port
    return fail(
        "port",
        f"port {port} is taken by another program, which is no LMX",
        f"`lsof -i :{port}` shows which; end it, or set server.port",
    )


def _is_taken(url: str) -> bool:
    """Whether somebody else listens there; of another machine's address nobody can tell."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, parts.port or 0))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _document(response: Any) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _clock(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return None
