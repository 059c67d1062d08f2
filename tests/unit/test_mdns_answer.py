"""The one packet that answers a simple multicast DNS question, and packets that get none."""

import socket
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import DNSAddress, DNSIncoming, DNSPointer, DNSService, DNSText

from lmx.daemon.mdns_answer import Service, answer, service_label

SERVICE = Service("Mac é", "mac.local", 1234, {"path": "/.well-known/opta-lmx", "service": "x"})
TYPE = ("_opta-lmx", "_tcp", "local")


def question(
    labels: Sequence[str] = TYPE, *, number: int = 12, kind: int = 1, flags: int = 0, count: int = 1
) -> bytes:
    """A query with id 7."""
    name = b"".join(bytes([len(word.encode())]) + word.encode() for word in labels) + b"\0"
    header = struct.pack("!HHHHHH", 7, flags, count, 0, 0, 0)
    return header + name + struct.pack("!HH", number, kind)


def read(packet: bytes | None) -> DNSIncoming:
    """The packet as zeroconf, another implementation, understands it."""
    assert packet is not None
    incoming = DNSIncoming(packet)
    assert incoming.valid
    return incoming


def test_the_answer_has_everything_in_one_packet() -> None:
    """Pointer, place, text and address, with the question and its id."""
    incoming = read(answer(question(), SERVICE, "192.0.2.9"))
    assert 7 == incoming.id
    [asked] = incoming.questions
    assert "_opta-lmx._tcp.local." == asked.name
    pointer, place, text, address = incoming.answers()
    assert isinstance(pointer, DNSPointer)
    assert isinstance(place, DNSService)
    assert isinstance(text, DNSText)
    assert isinstance(address, DNSAddress)
    assert "Mac é._opta-lmx._tcp.local." == pointer.alias == place.name == text.name
    assert ("mac.local.", 1234) == (place.server, place.port)
    assert b"\x1apath=/.well-known/opta-lmx\x09service=x" == text.text
    assert ("mac.local.", socket.inet_aton("192.0.2.9")) == (address.name, address.address)


@pytest.mark.parametrize(
    ("labels", "number", "first"),
    [
        (TYPE, 255, "DNSPointer"),
        (("_OPTA-LMX", "_TCP", "LOCAL"), 12, "DNSPointer"),
        (("mac é", *TYPE), 33, "DNSService"),
        (("Mac é", *TYPE), 16, "DNSText"),
        (("MAC", "local"), 1, "DNSAddress"),
    ],
)
def test_every_question_about_the_service_is_answered(
    labels: Sequence[str], number: int, first: str
) -> None:
    """In any case of letters; what was asked for comes first, the rest beside it."""
    incoming = read(answer(question(labels, number=number), SERVICE, "192.0.2.9"))
    assert first == type(incoming.answers()[0]).__name__
    assert 4 == len(incoming.answers())


@pytest.mark.parametrize(
    "query",
    [
        question(("_http", "_tcp", "local")),
        question(number=1),
        question(("other", "local"), number=1),
        question(kind=3),
        question(flags=0x8400),
        question(flags=0x2800),
        question(count=0),
        question()[:-1],
        b"",
        b"\0" * 12,
        question()[:12] + b"\xc0\x0c\0\x0c\0\x01",
        question()[:12] + b"\xc0\xff\0\x0c\0\x01",
        question()[:12] + b"\x3f" + b"x" * 9,
    ],
)
def test_what_is_no_question_about_it_gets_no_answer(query: bytes) -> None:
    """Other names, answers, cut packets, names that point at themselves."""
    assert answer(query, SERVICE, "192.0.2.9") is None


def test_unicast_questions_and_later_ones_count() -> None:
    """The bit that wishes for a unicast answer, and a second question in the packet."""
    assert answer(question(kind=0x8001), SERVICE, "192.0.2.9")
    second = question(("_http", "_tcp", "local"), count=2) + question()[12:]
    assert "_opta-lmx._tcp.local." == read(answer(second, SERVICE, "192.0.2.9")).questions[0].name


@given(st.binary(max_size=200))
def test_no_packet_breaks_it(packet: bytes) -> None:
    """Whatever comes, behind a header that asks as well."""
    answer(packet, SERVICE, "192.0.2.9")
    answer(question()[:12] + packet, SERVICE, "192.0.2.9")


def test_names_become_labels() -> None:
    """Dots would make several of one, and 63 bytes are the most."""
    assert "Mac-1-5 é" == service_label(" Mac.1\n5 é".replace("\n", "."))
    assert 62 == len(service_label("é" * 40).encode())
    assert ["lmx", "lmx"] == [service_label(""), service_label(" \x07 ")]
