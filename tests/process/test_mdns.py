"""The daemon on the local network: real sockets, on this machine's own addresses."""

import socket
import struct
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from zeroconf import DNSAddress, DNSIncoming, DNSService

from lmx.config import Settings
from lmx.daemon.mdns import (
    Announcer,
    answer_once,
    make_announcer,
    make_service,
    read_addresses,
)

SERVICE = make_service("The Mac", "mac.example.org", 4711)
QUESTION = struct.pack("!HHHHHH", 0, 0, 1, 0, 0, 0) + b"\x09_opta-lmx\x04_tcp\x05local\0\0\x0c\0\1"
ANYWHERE = "0.0.0.0"  # noqa: S104  # what a daemon is bound to, by default
LAN = read_addresses(ANYWHERE)[:1]


async def ask(destination: tuple[str, int], *, by: str) -> tuple[str, int, str]:
    """Server, port and address, as the Opta CLI reads them; asked until somebody listens."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        await asker.bind((by, 0))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(by))
        while True:
            await asker.sendto(QUESTION, destination)
            with trio.move_on_after(0.2):
                packet, _ = await asker.recvfrom(9000)
                answers = DNSIncoming(packet).answers()
                [place] = [one for one in answers if isinstance(one, DNSService)]
                [found] = [one for one in answers if isinstance(one, DNSAddress)]
                assert place.server.lower() == found.name.lower()
                return place.server, place.port or 0, socket.inet_ntoa(found.address)


async def test_who_asks_from_a_port_of_its_own_is_answered_at_once() -> None:
    """Each time, with the address on the way to who asks."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(answer_once, SERVICE, [], port=0))
            for _ in range(3):
                assert ("mac.local.", 4711, "127.0.0.1") == await ask(
                    ("127.0.0.1", port), by="127.0.0.1"
                )
            nursery.cancel_scope.cancel()


@pytest.mark.skipif(not LAN, reason="needs a network")
async def test_a_service_is_found_by_multicast() -> None:
    """At the group's own address and port, by several within a moment, and after a restart."""
    with trio.fail_after(20):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Announcer(SERVICE, lambda: LAN).run)
                for _ in range(3):
                    found = await ask(("224.0.0.251", 5353), by=LAN[0])
                    assert ("mac.local.", 4711, LAN[0]) == found
                nursery.cancel_scope.cancel()


@pytest.mark.skipif(not LAN, reason="needs a network")
async def test_a_network_that_comes_late_is_used() -> None:
    """As at boot, when services start before it; what goes away is no longer answered in."""
    readings: list[tuple[str, ...]] = [(), (), LAN]

    def read() -> tuple[str, ...]:
        return readings.pop(0) if len(readings) > 1 else readings[0]

    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            nursery.start_soon(Announcer(SERVICE, read, look_s=0.05).run)
            found = await ask(("224.0.0.251", 5353), by=LAN[0])
            assert ("mac.local.", 4711, LAN[0]) == found
            readings[0] = ()
            await wait_silence(LAN[0])
            nursery.cancel_scope.cancel()


async def wait_silence(by: str) -> None:
    """Until a question gets no answer."""
    while True:
        with trio.move_on_after(0.5) as limit:
            await ask(("224.0.0.251", 5353), by=by)
        if limit.cancelled_caught:
            return


async def test_a_network_that_does_not_work_ends_nothing() -> None:
    """Neither an address that is not ours nor a system that does not say."""

    def fail() -> tuple[str, ...]:
        raise OSError("no network")

    for addresses in (lambda: ("192.0.2.77",), fail):
        with trio.move_on_after(1) as scope:
            await Announcer(SERVICE, addresses).run()
        assert scope.cancelled_caught


def test_loopback_and_settings_turn_it_off(tmp_path: Path) -> None:
    """And a name may be set; without one it is the device's, else the host's."""

    def settings(**discovery: object) -> Settings:
        tree = {"home": str(tmp_path), "discovery": discovery}
        return msgspec.convert(tree, Settings, dec_hook=lambda kind, value: kind(value))

    assert make_announcer(settings(), "mac", "http://127.0.0.1:1") is None
    assert make_announcer(settings(), "mac", "http://[::1]:1") is None
    assert make_announcer(settings(mdns_enabled=False), "mac", "http://0.0.0.0:1") is None
    assert make_announcer(settings(), "mac", "http://0.0.0.0:1") is not None


def test_addresses_are_those_that_others_reach() -> None:
    """No loopback; of a bound address, that one alone, if it is there."""
    found = read_addresses(ANYWHERE)
    assert not [address for address in found if address.startswith("127.")]
    assert () == read_addresses("198.51.100.7")
    assert all((address,) == read_addresses(address) for address in found)
