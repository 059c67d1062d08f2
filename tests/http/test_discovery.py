"""The discovery documents and the device: what clients read before they know anything else."""

import os
import platform
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lmx import __version__
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, chat_request, wait_until

PATHS = ["/.well-known/opta-lmx", "/v1/discovery"]
NAME = socket.gethostname()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon without keys; its model answers slowly."""
    home = tmp_path_factory.mktemp("home")
    with shared_daemon(home, "fake:x?tokens=200&step_ms=20") as shared:
        yield shared


def get(daemon: Daemon, path: str, **headers: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path, headers=headers)
        assert (200, "application/json") == (reply.status, reply.headers["content-type"])
        return reply.json()


@pytest.mark.parametrize("path", PATHS)
def test_the_whole_document(daemon: Daemon, path: str) -> None:
    """Every field that clients read, with addresses made of the name by which they came."""
    document = get(daemon, path, host=f"192.168.1.9:{daemon.port}")
    hardware = document.pop("hardware_summary")
    base = f"192.168.1.9:{daemon.port}"
    assert {
        "schema_version": "1",
        "service": "opta-lmx",
        "version": __version__,
        "name": NAME,
        "instance_id": f"{NAME}:{daemon.port}",
        "security_profile": "open",
        "ready": True,
        "loaded_models": ["x"],
        "loaded_model_count": 1,
        "in_flight_requests": 0,
        "auth": {
            "admin_key_required": False,
            "inference_key_required": False,
            "supabase_jwt_enabled": False,
        },
        "endpoints": {
            "preferred_base_url": f"http://{base}",
            "base_urls": [f"http://{base}"],
            "openai_base_url": f"http://{base}/v1",
            "admin_base_url": f"http://{base}/admin",
            "websocket_url": f"ws://{base}/v1/chat/stream",
        },
        "continuity": {"event_resume_supported": True, "session_log_api": True},
        "client_probe_order": [*PATHS, "/readyz", "/healthz", "/v1/models"],
    } == document
    assert {"chip", "memory_gb", "metal"} == set(hardware)
    assert hardware["chip"]
    assert hardware["memory_gb"] > 0


def test_both_paths_say_the_same(daemon: Daemon) -> None:
    """To the byte, so that clients may cache either."""
    with Connection(daemon) as connection:
        first, second = (connection.ask("GET", path).body for path in PATHS)
    assert first == second


@pytest.mark.parametrize(
    ("host", "authority"),
    [
        ("LocalHost:8080", "localhost:8080"),
        ("localhost", "localhost"),
        ("[::1]:1234", "[::1]:1234"),
        (f"{NAME}.:99", f"{NAME.lower()}:99"),
    ],
)
def test_addresses_follow_the_host(daemon: Daemon, host: str, authority: str) -> None:
    """Not the machine's own name, which may not resolve where the client is."""
    endpoints = get(daemon, PATHS[0], host=host)["endpoints"]
    assert f"ws://{authority}/v1/chat/stream" == endpoints["websocket_url"]
    assert f"http://{authority}" == endpoints["preferred_base_url"]


def test_without_a_host(daemon: Daemon) -> None:
    """The address that was connected to is all there is."""
    with Connection(daemon) as connection:
        connection.send(b"GET /v1/discovery HTTP/1.0\r\n\r\n")
        endpoints = connection.read_reply().json()["endpoints"]
    assert daemon.url == endpoints["preferred_base_url"]


def test_running_requests_are_counted(daemon: Daemon) -> None:
    """Live, from memory; the document comes at once while a model computes."""
    with Connection(daemon) as connection:
        connection.send(chat_request("x", stream=True))
        connection.read_head()
        assert wait_until(lambda: get(daemon, PATHS[1])["in_flight_requests"] == 1)
        started_s = time.monotonic()
        for _ in range(20):
            get(daemon, PATHS[0])
        assert time.monotonic() - started_s < 2
    assert wait_until(lambda: get(daemon, PATHS[1])["in_flight_requests"] == 0)


def test_with_keys_and_without_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The document stays open, tells which keys are needed, and does not promise a model."""
    settings = {"LMX_SECURITY__ADMIN_KEY": "k", "LMX_DEVICE__NAME": "Studio"}
    home = tmp_path_factory.mktemp("keys")
    slow = "fake:x?load_ms=60000"
    with shared_daemon(home, slow, settings=settings, is_ready=False) as closed:
        document = get(closed, PATHS[1])
        assert ("local-key", False, [], 0, "Studio") == (
            document["security_profile"],
            document["ready"],
            document["loaded_models"],
            document["loaded_model_count"],
            document["name"],
        )
        auth = document["auth"]
        assert (True, False) == (auth["admin_key_required"], auth["inference_key_required"])
        assert f"{NAME}:{closed.port}" == document["instance_id"]


def test_the_device(daemon: Daemon) -> None:
    """Nested for the CLI, flat for the dashboard."""
    device = get(daemon, "/admin/device")
    hardware = device["hardware"]
    assert (NAME, platform.machine(), os.cpu_count(), None) == (
        hardware["hostname"],
        hardware["architecture"],
        hardware["cpu_cores"],
        hardware["gpu_family"] if platform.system() == "Linux" else None,
    )
    assert {"name": NAME, "purpose": "inference", "role": "server"} == device["identity"]
    flat = {key: device[key] for key in ("chip", "memory_gb", "hostname")}
    nested = [hardware[key] for key in ("chip_name", "memory_gb", "hostname")]
    assert nested == list(flat.values())
    assert device["identity"] == {key: device[key] for key in ("name", "purpose", "role")}
    assert device["os_version"]


def test_the_identity_is_a_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the operator calls the machine and uses it for."""
    settings = {"LMX_DEVICE__NAME": "Studio", "LMX_DEVICE__PURPOSE": "x", "LMX_DEVICE__ROLE": "y"}
    with shared_daemon(tmp_path_factory.mktemp("named"), "fake:x", settings=settings) as named:
        identity = get(named, "/admin/device")["identity"]
    assert {"name": "Studio", "purpose": "x", "role": "y"} == identity


def test_other_methods_are_refused(daemon: Daemon) -> None:
    """As on every route."""
    with Connection(daemon) as connection:
        for path in PATHS:
            assert 405 == connection.ask("POST", path, b"").status
        assert 200 == connection.ask("GET", CHAT_PATH.replace("chat/completions", "models")).status
