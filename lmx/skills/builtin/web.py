"""HTTP from inside the contained process: skills of kind ``http``, and ``fetch_url``.

Of the standard library alone, so that the process starts fast. Proxies of the environment are not
used: whom a skill talks to is what its manifest or the model says.
"""

import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import time
import zlib
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from lmx.skills.builtin.html_text import html_to_text

MAX_REDIRECTS = 5
CONNECT_S = 10.0
PIECE_BYTES = 65_536
SHOWN_CHARACTERS = 300
MAX_PAGE_BYTES = 5_000_000
DEFAULT_CHARACTERS = 20_000
REDIRECTS = frozenset({301, 302, 303, 307, 308})
FIRST_ERROR_STATUS = 400
VARIABLE = re.compile(r"\$\{([^}]*)\}")
READABLE = re.compile(r"text/|application/(?:[\w.+-]*\+)?(?:json|xml)|application/xhtml|javascript")
HTTP_PORTS = {"http": 80, "https": 443}
# Addresses that hold another one: IPv4 in IPv6 by translation (RFC 6052), 6to4 (RFC 3056).
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Of IPv6, what a network leaves to its hosts (RFC 4291).
HOST_BITS = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reply(NamedTuple):
    """What a server answered."""

    url: str
    status: int
    content_type: str
    charset: str
    body: bytes
    is_cut: bool

    @property
    def text(self) -> str:
        """The body as text, whatever its bytes."""
        try:
            return self.body.decode(self.charset or "utf-8", "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")


class Ask(NamedTuple):
    """One request; `deadline_s` is of the monotonic clock."""

    method: str
    headers: dict[str, str]
    body: bytes | None
    max_bytes: int
    deadline_s: float
    is_public_only: bool = False


def call_http(
    call: dict[str, Any], arguments: dict[str, Any], *, max_bytes: int, timeout_s: float
) -> Any:
    """Send a skill's arguments to its address.

    Args:
        call: ``url``, ``method`` and ``headers`` of the manifest.
        arguments: The JSON body, or the query of a GET.
        max_bytes: Longest answer.
        timeout_s: For all of it.

    Returns:
        The value of a JSON answer, else its text.

    Raises:
        ValueError: There is no answer, or it says that something is wrong.
    """
    headers = {"accept": "application/json, text/*;q=0.9"}
    headers |= {name.lower(): _filled(text) for name, text in call["headers"].items()}
    url, body = call["url"], None
    if call["method"] == "GET":
        query = urlencode({name: _query(value) for name, value in arguments.items()})
        url += ("&" if "?" in url else "?") + query if query else ""
    else:
        headers["content-type"] = "application/json"
        body = json.dumps(arguments).encode()
    deadline_s = time.monotonic() + timeout_s
    ask = Ask(call["method"], headers, body, max_bytes, deadline_s)
    reply = _send(url, ask, is_same_host_only=True)
    if reply.is_cut:
        raise ValueError(f"the answer has more than {max_bytes} bytes")
    if reply.status >= FIRST_ERROR_STATUS:
        raise ValueError(f"HTTP {reply.status}: {reply.text[:SHOWN_CHARACTERS]}")
    if "json" not in reply.content_type:
        return reply.text
    try:
        return json.loads(reply.body) if reply.body else None
    except (ValueError, RecursionError):
        raise ValueError("the answer says that it is JSON and is not") from None


def fetch_url(
    url: str, max_characters: int = DEFAULT_CHARACTERS, *, timeout_s: float = 30.0
) -> dict[str, Any]:
    """A public web page as text.

    Args:
        url: Of HTTP or HTTPS, at a public address.
        max_characters: Of the text; what is longer is cut.
        timeout_s: For all of it.

    Raises:
        ValueError: It cannot be had, is no text or is not public.
    """
    return read_page(url, max_characters, timeout_s=timeout_s, is_public_only=True)


def read_page(
    url: str, max_characters: int, *, timeout_s: float, is_public_only: bool
) -> dict[str, Any]:
    """A web page as text; see `fetch_url`."""
    headers = {"accept": "text/html, text/*;q=0.9, application/json;q=0.8"}
    deadline_s = time.monotonic() + timeout_s
    ask = Ask("GET", headers, None, MAX_PAGE_BYTES, deadline_s, is_public_only=is_public_only)
    reply = _send(url, ask, is_same_host_only=False)
    if reply.status >= FIRST_ERROR_STATUS:
        raise ValueError(f"HTTP {reply.status} of {reply.url}")
    if reply.content_type and not READABLE.match(reply.content_type):
        raise ValueError(f"{reply.url} is {reply.content_type}, which is no text")
    title, text = "", reply.text
    if "html" in reply.content_type:
        title, text = html_to_text(text)
    return {
        "url": reply.url,
        "title": title,
        "text": text[:max_characters],
        "is_cut": reply.is_cut or len(text) > max_characters,
    }


def _filled(text: str) -> str:
    """A header's value with variables of the environment, which the manifest has asked for."""
    value = VARIABLE.sub(lambda match: os.environ.get(match[1], ""), text)
    if not value.isprintable():
        raise ValueError("a header's variable holds a control character")
    return value


def _query(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _send(url: str, ask: Ask, *, is_same_host_only: bool) -> Reply:
    """Follow redirects to the answer."""
    for _ in range(MAX_REDIRECTS + 1):
        parts = _split(url)
        try:
            reply, target = _exchange(parts, ask)
        except (OSError, http.client.HTTPException, zlib.error) as error:
            raise ValueError(f"{parts.hostname}: {_reason(error)}") from None
        if not target:
            return reply
        following = _split(urljoin(url, target))
        if is_same_host_only and _place(following) != _place(parts):
            raise ValueError("it redirects to another host, where its headers must not go")
        if reply.status not in {307, 308} and ask.method != "GET":
            ask = ask._replace(method="GET", body=None)
        url = following.geturl()
    raise ValueError(f"more than {MAX_REDIRECTS} redirects")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        raise ValueError("that is no address of the web") from None
    if parts.scheme not in HTTP_PORTS or not parts.hostname or not has_port:
        raise ValueError("an address starts with http:// or https:// and a host")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("an address has only ASCII characters; encode others with %")
    if parts.username is not None:
        raise ValueError("an address with a user name in it is not fetched")
    return parts


def _place(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or HTTP_PORTS[parts.scheme]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {error}".strip()


def _exchange(parts: SplitResult, ask: Ask) -> tuple[Reply, str]:
    """One request: the answer, and where it redirects to."""
    scheme, host, port = _place(parts)
    connection = http.client.HTTPConnection(host or "", port)
    sock = _connect(host or "", port, ask)
    try:
        if scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection.sock = sock  # which it lets go of as soon as it has read the head
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"user-agent": "lmx-skill", "accept-encoding": "identity", **ask.headers}
        headers["host"] = parts.netloc
        headers["connection"] = "close"
        connection.request(ask.method, target, body=ask.body, headers=headers)
        response = connection.getresponse()
        location = response.getheader("location") or ""
        if response.status in REDIRECTS and location:
            kind, body, is_cut = "", b"", False
        else:
            location = ""
            kind = response.headers.get_content_type() if response.getheader("content-type") else ""
            body, is_cut = _read(response, sock, ask)
        charset = response.headers.get_content_charset("")
        return Reply(parts.geturl(), response.status, kind, charset, body, is_cut), location
    finally:
        connection.close()
        sock.close()


def _connect(host: str, port: int, ask: Ask) -> socket.socket:
    """A connection to an address that was looked at, so that no second answer can differ."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise ValueError("that is no name of a host") from None
    addresses = [entry[4] for entry in found]
    if ask.is_public_only:
        for address in addresses:
            if not is_public(str(address[0])):
                raise ValueError(f"{host} is at {address[0]}, which is no public address")
    trouble: OSError | None = None
    for address in addresses:
        try:
            wait_s = min(CONNECT_S, _left_s(ask))
            sock = socket.create_connection((str(address[0]), port), timeout=wait_s)
        except OSError as error:
            trouble = error
            continue
        if ask.is_public_only and is_near(str(address[0]), sock.getsockname()[0]):
            sock.close()
            raise ValueError(f"{host} is at {address[0]}, which is in the network of this machine")
        return sock
    raise trouble or OSError("the host has no address")


def is_public(text: str) -> bool:
    """Whether an address is everybody's, as far as the address itself says."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_near(text: str, own: str) -> bool:
    """Whether an address is this machine's or, in IPv6, of its network: these are public as well.

    Args:
        text: The address.
        own: What this machine calls itself towards it.
    """
    one, other = (ipaddress.ip_address(place.partition("%")[0]) for place in (text, own))
    bits = 0 if one.version == 4 else HOST_BITS  # noqa: PLR2004
    return one.version == other.version and int(one) >> bits == int(other) >> bits


def _left_s(ask: Ask) -> float:
    left_s = ask.deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read(response: http.client.HTTPResponse, sock: socket.socket, ask: Ask) -> tuple[bytes, bool]:
    """The body as far as it may go, unpacked if the server insists on packing it."""
    packing = (response.getheader("content-encoding") or "identity").lower()
    if packing not in {"identity", "gzip", "deflate"}:
        raise ValueError(f"the answer is packed with {packing[:32]}")
    unpack = zlib.decompressobj(47) if packing != "identity" else None  # 47: either of the two
    body = bytearray()
    while len(body) <= ask.max_bytes:
        sock.settimeout(_left_s(ask))
        piece = response.read1(PIECE_BYTES)
        if not piece:
            return bytes(body), False
        room = ask.max_bytes + 1 - len(body)
        body += unpack.decompress(piece, room) if unpack is not None else piece
    return bytes(body[: ask.max_bytes]), True
