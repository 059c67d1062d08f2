"""The daemon on the local network: multicast DNS, so that clients find it by themselves.

Theory of operation. python-zeroconf announces the service and answers all who speak multicast DNS
in full. It has threads and a loop of its own, so every call of it runs in a worker thread, and none
is waited for longer than a limit: no start or stop depends on a network. Beside it, a small
responder (`lmx.daemon.mdns_answer`) serves those who ask once from a port of their own, as the Opta
CLI does. zeroconf answers these too, but swallows a question that is repeated within 0.8 s,
whoever repeats it, and gives all addresses of the machine in any order, of which the asker may
reach none; ours gives the one that lies on the way to who asks. When the machine's addresses change
both start anew, so a daemon that was up before its network is found all the same.
"""

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address
from typing import NoReturn
from urllib.parse import urlsplit

import ifaddr
import structlog
import trio
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceInfo, Zeroconf

from lmx.config import Settings
from lmx.daemon.mdns_answer import SERVICE_TYPE, Service, answer, service_label

GROUP, PORT = "224.0.0.251", 5353
LONGEST_PACKET = 9000
# Between two looks at the machine's addresses.
LOOK_S = 15.0
# A name is probed for three times, and told twice, before it is registered: 1.7 s.
REGISTER_LIMIT_S = 30.0
CLOSE_LIMIT_S = 2.5
REGISTER_WAIT_S = 2.0
# Networks inside this machine, which nobody else can reach it by.
INNER_INTERFACES = ("lo", "docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "bridge", "utun")
ANYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # compared, not bound

log = structlog.get_logger("lmx.mdns")


def make_service(name: str, hostname: str, port: int) -> Service:
    """What is told of a daemon.

    Args:
        name: As people shall see it.
        hostname: The machine's own name.
        port: Where the daemon listens.
    """
    server = service_label(hostname.partition(".")[0])
    properties = {"path": "/.well-known/opta-lmx", "service": "opta-lmx"}
    return Service(service_label(name), f"{server}.local", port, properties)


def read_addresses(host: str) -> tuple[str, ...]:
    """The IPv4 addresses at which others may reach a daemon that is bound to `host`. Blocks.

    Args:
        host: An address.

    Raises:
        OSError: The system does not say.
    """
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        if adapter.nice_name.startswith(INNER_INTERFACES):
            continue
        found += [address.ip for address in adapter.ips if isinstance(address.ip, str)]
    usable = [ip for ip in found if not ip_address(ip).is_loopback]
    if host not in ANYWHERE:
        return (host,) if host in found else ()
    routed = [ip for ip in usable if not ip_address(ip).is_link_local]
    return tuple(sorted(set(routed or usable)))


def make_announcer(settings: Settings, hostname: str, url: str) -> "Announcer | None":
    """Who makes a daemon known, if anybody shall.

    Args:
        settings: Say whether, and by which name.
        hostname: The machine's own name.
        url: Where the daemon answers; one on a loopback address is nobody else's business.
    """
    bound = urlsplit(url)
    host, port = bound.hostname or "", bound.port
    if not settings.discovery.mdns_enabled or port is None or ip_address(host).is_loopback:
        return None
    name = settings.discovery.mdns_service_name or settings.device.name or hostname
    return Announcer(make_service(name, hostname, port), partial(read_addresses, host))


class Announcer:
    """Makes a service known for as long as it runs.

    Args:
        service: The daemon.
        addresses: Reads the addresses to make it known at, in a thread.
        look_s: Time between two such readings.
    """

    def __init__(
        self, service: Service, addresses: Callable[[], Sequence[str]], *, look_s: float = LOOK_S
    ) -> None:
        self._look_s = look_s
        self._service = service
        self._addresses = addresses
        self._has_failed = False

    async def run(self) -> NoReturn:
        """Announce, answer, and begin again when addresses change.

        Cancellation:
            The service is taken back if the network lets that happen within three seconds.
        """
        known: tuple[str, ...] = ()
        while True:
            async with trio.open_nursery() as nursery:
                if known:
                    nursery.start_soon(self._announce, known)
                    nursery.start_soon(self._answer, known)
                known = await self._wait_other(known)
                nursery.cancel_scope.cancel()

    async def _wait_other(self, known: tuple[str, ...]) -> tuple[str, ...]:
        while True:
            try:
                now = tuple(await trio.to_thread.run_sync(self._addresses))
            except OSError as error:
                self._tell_failure(error)
                now = ()
            if now != known:
                return now
            await trio.sleep(self._look_s)

    async def _announce(self, addresses: Sequence[str]) -> None:
        """Let zeroconf do it until cancelled."""
        announcement = _Announcement(self._service, addresses)
        try:
            with trio.move_on_after(REGISTER_LIMIT_S):
                await trio.to_thread.run_sync(announcement.open, abandon_on_cancel=True)
                log.info("announced by mDNS", name=self._service.name, addresses=addresses)
            await trio.sleep_forever()
        except (OSError, ZeroconfError) as error:
            self._tell_failure(error)
        finally:
            with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
                await trio.to_thread.run_sync(announcement.close, abandon_on_cancel=True)

    async def _answer(self, addresses: Sequence[str]) -> None:
        try:
            await answer_once(self._service, addresses)
        except OSError as error:
            self._tell_failure(error)

    def _tell_failure(self, error: Exception) -> None:
        """Once: clients can be told the address by hand."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("mDNS does not work here", reason=f"{type(error).__name__}: {error}")


async def answer_once(
    service: Service,
    addresses: Sequence[str],
    *,
    port: int = PORT,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Answer those who ask from a port of their own, each with one packet.

    Args:
        service: The daemon.
        addresses: Of the networks to listen in.
        port: To listen at.
        task_status: Told the port.

    Raises:
        OSError: The network does not allow it.
    """
    with _open_socket(addresses, port) as listener:
        port = listener.getsockname()[1]
        task_status.started(port)
        while True:
            query, asker = await listener.recvfrom(LONGEST_PACKET)
            if asker[1] == port:
                continue  # zeroconf's to answer
            with suppress(OSError):  # one that this machine cannot reach is not worth an answer
                packet = answer(query, service, _address_towards(asker))
                if packet is not None:
                    await listener.sendto(packet, asker)


def _open_socket(addresses: Sequence[str], port: int) -> trio.socket.SocketType:
    with ExitStack() as undo:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        undo.callback(listener.close)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(("", port))
        for address in addresses:
            member = struct.pack("4s4s", *map(socket.inet_aton, (GROUP, address)))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        undo.pop_all()
    return trio.socket.from_stdlib_socket(listener)


def _address_towards(asker: tuple[str, int]) -> str:
    """Our address on the way to somebody. Sends nothing.

    Raises:
        OSError: There is no way.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(asker)
        return str(probe.getsockname()[0])


class _Announcement:
    """zeroconf with one service. Its methods block, and may run in two threads at once."""

    def __init__(self, service: Service, addresses: Sequence[str]) -> None:
        self._service = service
        self._addresses = addresses
        self._lock = threading.Lock()
        self._daemon: Zeroconf | None = None
        self._is_registered = threading.Event()
        self._is_closed = False

    def open(self) -> None:
        """Register, which takes two seconds.

        Raises:
            OSError: The network does not allow it.
            ZeroconfError: Others on it do not.
        """
        daemon = Zeroconf(interfaces=list(self._addresses), ip_version=IPVersion.V4Only)
        with self._lock:
            self._daemon = daemon
            is_late = self._is_closed
        if is_late:
            daemon.close()
            return
        kind, service = f"{SERVICE_TYPE}.", self._service
        info = ServiceInfo(
            kind,
            f"{service.instance}.{kind}",
            addresses=[socket.inet_aton(address) for address in self._addresses],
            port=service.port,
            properties=dict(service.properties),
            server=f"{service.server}.",
        )
        try:
            daemon.register_service(info, allow_name_change=True)
        finally:
            self._is_registered.set()

    def close(self) -> None:
        """Say goodbye and end, also if `open` is under way or yet to come."""
        with self._lock:
            self._is_closed = True
            daemon = self._daemon
        if daemon is not None:
            # Closed in the middle of it, zeroconf would complain about tasks of its own.
            self._is_registered.wait(REGISTER_WAIT_S)
            with suppress(OSError, ZeroconfError):
                daemon.close()
