"""The short form of `scripts/soak.py`: what the daemon holds after many cycles and requests."""

from pathlib import Path

import pytest

from scripts.storm.endurance import run_cycles, run_requests


@pytest.mark.slow
async def test_loads_and_unloads_leave_nothing_behind(tmp_path: Path) -> None:
    """Descriptors, threads, tasks, memory and processes after 20 cycles are those after five."""
    result = await run_cycles(tmp_path, "fake:cycled?tokens=4", "cycled", count=20)
    assert [] == result.violations()
    assert 20 == len(result.samples)


async def test_requests_leave_nothing_behind(tmp_path: Path) -> None:
    """The same over 1,280 requests of 16 clients."""
    result = await run_requests(tmp_path, count=1280, clients=16)
    assert [] == result.violations()
    assert 1280 == result.count
