"""A daemon that systemd started: it says when it answers, that it lives, and that it stops."""

import socket
from pathlib import Path

import trio

from tests.daemon_process import open_daemon


async def test_the_service_manager_hears_of_start_life_and_stop(tmp_path: Path) -> None:
    """Ready only with the address, signs of life from then on, and a word before the drain."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        await manager.bind(str(tmp_path / "notify"))
        settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}

        async def hear(start: str) -> str:
            while not (message := (await manager.recv(4096)).decode()).startswith(start):
                pass
            return message

        async with open_daemon(tmp_path / "home", "fake:x", settings=settings) as daemon:
            with trio.fail_after(20):
                ready = (await hear("READY=1")).splitlines()
                assert f"STATUS=answers at {daemon.url}" in ready
                assert f"MAINPID={daemon.pid}" in ready
                for _ in range(3):
                    await hear("WATCHDOG=1")
                daemon.process.terminate()
                await hear("STOPPING=1")
                assert 0 == await daemon.wait_exit()
