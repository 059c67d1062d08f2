"""Answers to simple multicast DNS questions about this daemon, which need no cache. Pure.

A client that asks from a port of its own understands one packet and keeps nothing of it: it gets
the service's pointer, its place, its text and the address together, with the question repeated and
short lifetimes. Source: RFC 6762, section 6.7 (legacy unicast responses); RFC 6763, section 12.
"""

import socket
import struct
from collections.abc import Mapping, Sequence

from msgspec import Struct

SERVICE_TYPE = "_opta-lmx._tcp.local"
EVERY_TYPE = "_services._dns-sd._udp.local"
HEADER = struct.Struct("!HHHHHH")
TYPE_CLASS = struct.Struct("!HH")
RECORD = struct.Struct("!HHIH")
TYPE_A, TYPE_PTR, TYPE_TXT, TYPE_SRV, TYPE_ANY = 1, 12, 16, 33, 255
CLASS_IN = 1
UNICAST_BIT = 0x8000
RESPONSE_FLAGS = 0x8400  # a response, authoritative
QUERY_MASK = 0xF800  # response bit and kind of query
POINTER = 0xC0
LONGEST_LABEL = 63
LONGEST_NAME_LABELS = 128
# Clients of this kind cannot be told of changes. Source: RFC 6762, section 6.7.
LIFETIME_S = 10


class Service(Struct, frozen=True):
    """What is told of the daemon.

    Attributes:
        instance: Its name among services of its type; one label.
        server: The machine's name, with ``.local``.
        port: Where it listens.
        properties: The text record.
    """

    instance: str
    server: str
    port: int
    properties: Mapping[str, str]

    @property
    def name(self) -> str:
        """The service's whole name, for people."""
        return f"{self.instance}.{SERVICE_TYPE}"


def service_label(text: str) -> str:
    """A text as one label: no dots, no control characters, no more bytes than fit."""
    plain = "".join(c if c.isprintable() else " " for c in text).replace(".", "-").strip()
    return plain.encode()[:LONGEST_LABEL].decode("utf-8", "ignore") or "lmx"


def answer(query: bytes, service: Service, address: str) -> bytes | None:
    """The one packet that answers a question about the service.

    Args:
        query: A packet.
        service: What there is to tell.
        address: Of this machine, as the asker reaches it; IPv4.

    Returns:
        The packet; `None` if the question is none, or about something else.
    """
    try:
        question = _read_question(query, service)
    except (IndexError, struct.error, UnicodeDecodeError):
        return None
    if question is None:
        return None
    identifier = HEADER.unpack_from(query)[0]
    own = (service.instance, *SERVICE_TYPE.split("."))
    kind = SERVICE_TYPE.split(".")
    server = service.server.split(".")
    place = struct.pack("!HHH", 0, 0, service.port) + _name(server)
    texts = b"".join(_string(f"{k}={v}".encode()) for k, v in service.properties.items())
    records = {
        TYPE_PTR: _record(kind, TYPE_PTR, _name(own)),
        TYPE_SRV: _record(own, TYPE_SRV, place),
        TYPE_TXT: _record(own, TYPE_TXT, texts),
        TYPE_A: _record(server, TYPE_A, socket.inet_aton(address)),
    }
    first = question.record
    others = [record for number, record in records.items() if number != first]
    header = HEADER.pack(identifier, RESPONSE_FLAGS, 1, 1, 0, len(others))
    return b"".join([header, question.text, records[first], *others])


class _Question(Struct, frozen=True):
    """A question that can be answered: as it stood in the packet, and which record answers it."""

    text: bytes
    record: int


def _read_question(query: bytes, service: Service) -> _Question | None:
    """The first question about the service."""
    _, flags, count, *_ = HEADER.unpack_from(query)
    if flags & QUERY_MASK:
        return None
    names = {
        tuple(SERVICE_TYPE.split(".")): (TYPE_PTR,),
        (service.instance.lower(), *SERVICE_TYPE.split(".")): (TYPE_SRV, TYPE_TXT),
        tuple(service.server.lower().split(".")): (TYPE_A,),
    }
    offset = HEADER.size
    for _ in range(min(count, LONGEST_NAME_LABELS)):
        labels, offset = _read_name(query, offset)
        number, kind = TYPE_CLASS.unpack_from(query, offset)
        offset += TYPE_CLASS.size
        known = names.get(tuple(label.lower() for label in labels), ())
        record = known[0] if known and number == TYPE_ANY else number
        if record in known and kind & ~UNICAST_BIT in {CLASS_IN, TYPE_ANY}:
            return _Question(_name(labels) + TYPE_CLASS.pack(number, CLASS_IN), record)
    return None


def _read_name(packet: bytes, offset: int) -> tuple[list[str], int]:
    """A name and where it ends; pointers in it lead backwards only, so it does end.

    Raises:
        IndexError: It does not end inside the packet.
    """
    labels: list[str] = []
    end = 0
    while length := packet[offset]:
        if length >= POINTER:
            end = end or offset + 2
            target = (length - POINTER) << 8 | packet[offset + 1]
            if target >= offset:
                raise IndexError("a name that points forwards")
            offset = target
            continue
        if length > LONGEST_LABEL or len(labels) > LONGEST_NAME_LABELS:
            raise IndexError("no name")
        labels.append(packet[offset + 1 : offset + 1 + length].decode())
        offset += 1 + length
    return labels, end or offset + 1


def _record(name: Sequence[str], number: int, data: bytes) -> bytes:
    return _name(name) + RECORD.pack(number, CLASS_IN, LIFETIME_S, len(data)) + data


def _name(labels: Sequence[str]) -> bytes:
    return b"".join(_string(label.encode()) for label in labels) + b"\0"


def _string(data: bytes) -> bytes:
    return bytes([len(data)]) + data
