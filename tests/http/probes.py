"""Connections that no well-behaved client makes, as bytes. Each is sent as the packets listed.

The deadly ones ended a stock Hypercorn, nearly every time: its parsers raise what its connection
does not catch. The rest are what port scanners, broken proxies and tired programmers send.
"""

import base64
import os
import struct
from typing import NamedTuple

from tests.http.wire import CHAT_PATH, chat_request, encode_request


class Probe(NamedTuple):
    """One connection.

    Attributes:
        name: Names it in a report.
        packets: Sent one after the other, each in a segment of its own.
        statuses: The acceptable first status, 0 for a close without an answer; empty for any.
        closes: Whether the client closes its end after the last packet.
    """

    name: str
    packets: tuple[bytes, ...]
    statuses: tuple[int, ...] = ()
    closes: bool = False


H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
WEBSOCKET = encode_request("GET", "/v1/chat/stream", headers=UPGRADE)
WHOLE_GET = encode_request("GET", "/healthz")


def _h2c(settings: str) -> bytes:
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": settings,
    }
    return encode_request("GET", "/healthz", headers=headers)


def _masked_frame(payload: bytes, *, opcode: int = 1) -> bytes:
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked


def _get(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nhost: lmx\r\n\r\n"


def _get_with(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /healthz HTTP/1.1", *lines, b"", b""))


def _post_with(*lines: bytes, body: bytes = b"") -> bytes:
    head = b"POST " + CHAT_PATH.encode() + b" HTTP/1.1"
    return b"\r\n".join((head, b"host: lmx", *lines, b"", b"")) + body


def _client_hello() -> bytes:
    hello = b"\x03\x03" + bytes(range(32)) + b"\x00\x00\x02\x13\x01\x01\x00"
    handshake = b"\x01" + struct.pack(">I", len(hello))[1:] + hello
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


DEADLY = (
    Probe(
        "h2c settings not a multiple of six",
        (_h2c(base64.urlsafe_b64encode(b"\x00\x03\x00\x00\x00").decode()),),
    ),
    Probe("h2c settings not base64", (_h2c("A"),)),
    Probe(
        "websocket protocol not ascii",
        (WEBSOCKET[:-2] + b"sec-websocket-protocol: ch\xe4t\r\n\r\n",),
    ),
    Probe(
        "websocket extension not ascii",
        (WEBSOCKET[:-2] + b"sec-websocket-extensions: d\xe9flate\r\n\r\n",),
    ),
    Probe("websocket upgrade and a frame", (WEBSOCKET + _masked_frame(b"hello"),)),
    Probe("websocket upgrade and an unmasked frame", (WEBSOCKET + b"\x81\x05hello",)),
    Probe("websocket upgrade and garbage", (WEBSOCKET + b"\xff" * 64,)),
    Probe("websocket upgrade and bad utf-8", (WEBSOCKET + _masked_frame(b"\xc3\x28\xff"),)),
    Probe("websocket upgrade and a body", (WEBSOCKET + b'{"type":"chat.request"}',)),
    Probe(
        "bad chunk header while the app answers",
        (
            encode_request("GET", "/healthz", b"", headers={"transfer-encoding": "chunked"})
            + b"5\r\nhello\r\n",
            b"zz\r\nnot a chunk\r\n",
        ),  # which side is quicker decides whether it hears 200, 400 or nothing
    ),
)

REFUSED = (
    Probe("garbage request line", (b"\x00\x01\x02 nonsense\r\n\r\n",), (400,)),
    Probe("request line without a version", (b"GET /healthz\r\nhost: lmx\r\n\r\n",), (400,)),
    Probe("unknown http version", (b"GET /healthz HTTP/9.9\r\nhost: lmx\r\n\r\n",)),
    Probe("missing host", (_get_with(),), (400,)),
    Probe("host twice", (_get_with(b"host: one", b"host: two"),), (400,)),
    Probe("negative length", (_post_with(b"content-length: -1"),), (400,)),
    Probe("huge length", (_post_with(b"content-length: " + b"9" * 40),)),
    Probe(
        "two lengths",
        (_post_with(b"content-length: 5", b"content-length: 6", body=b"hello"),),
        (400,),
    ),
    Probe(
        "length and chunked",
        (_post_with(b"content-length: 5", b"transfer-encoding: chunked", body=b"0\r\n\r\n"),),
    ),
    Probe("unknown transfer coding", (_post_with(b"transfer-encoding: cabbage"),)),
    Probe(
        "bad chunk header",
        (_post_with(b"transfer-encoding: chunked", body=b"xyz\r\nhello\r\n0\r\n\r\n"),),
    ),
    Probe(
        "overlong chunk header",
        (_post_with(b"transfer-encoding: chunked", body=b"f" * 64 + b"\r\n"),),
    ),
    Probe("nul in the target", (_get(b"/health\x00z"),), (400,)),
    Probe("nul in a header", (_get_with(b"host: lmx", b"x-a: b\x00c"),), (400,)),
    Probe("oversized header", (b"GET / HTTP/1.1\r\nx-long: " + b"a" * 40_000, b"a" * 40_000)),
    Probe("oversized request line", (b"GET /" + b"a" * 40_000, b"a" * 40_000)),
    Probe("header without a colon", (_get_with(b"host: lmx", b"no colon here"),), (400,)),
    Probe("header name with a space", (_get_with(b"host: lmx", b"bad name: x"),), (400,)),
    Probe("folded header", (_get_with(b"host: lmx", b"x-a: one", b"  two"),)),
    Probe("body in a get", (_get_with(b"host: lmx", b"content-length: 5") + b"hello",), (200,)),
)

ODD = (
    Probe("http/2 preface and garbage", (H2_PREFACE + b"\xff" * 64,)),
    Probe("http/2 preface and a huge frame", (H2_PREFACE, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")),
    Probe("half an http/2 preface", (H2_PREFACE[:17],)),
    Probe("tls client hello", (_client_hello(),)),
    Probe("nothing at all", ()),
    Probe("half a request line", (b"GET /heal",), (400,), closes=True),
    Probe("half a head", (b"GET /healthz HTTP/1.1\r\nhost: l",), (400,), closes=True),
    Probe("body shorter than declared", (_post_with(b"content-length: 100", body=b"{"),)),
    Probe("pipelined garbage", (WHOLE_GET + b"\x00\xff garbage\r\n\r\n",), (200,)),
    Probe("garbage after a chat", (chat_request("x"), b"\x00\xff" * 50)),
    Probe("connect", (b"CONNECT lmx:443 HTTP/1.1\r\nhost: lmx:443\r\n\r\n",)),
    Probe("absolute target", (_get(b"http://lmx/healthz"),), (200,)),
    Probe("absolute target of a quart route", (_get(b"http://lmx/v1/models"),), (200,)),
    Probe("absolute target with half an address", (_get(b"http://[lmx/healthz"),), (400, 404)),
    Probe("target without a path", (_get(b"?a=b"),), (200,)),
    Probe("websocket target without a path", (WEBSOCKET.replace(b"/v1/chat/stream", b"?"),)),
    Probe("asterisk target", (b"OPTIONS * HTTP/1.1\r\nhost: lmx\r\n\r\n",)),
    Probe("bad percent encoding", (_get(b"/%zz%f%%/%c3%28?%ff=%fe"),)),
    Probe("target that is not utf-8", (_get(b"/v1/models/\xff\xfe"),)),
    Probe("encoded target that is not utf-8", (_get(b"/v1/models/%ff%fe%00"),)),
    Probe("target with dots", (_get(b"/v1/models/../../../etc/passwd"),), (404,)),
    Probe("bare line feeds", (b"GET /healthz HTTP/1.1\nhost: lmx\n\n",)),
    Probe("noise", (os.urandom(512),)),
    Probe("lines of nothing", (b"\r\n" * 200,)),
)

PROBES = DEADLY + REFUSED + ODD
