"""The short form of `scripts/kill_storm.py`: every kind of fault on every engine at hand."""

from pathlib import Path

import pytest

from scripts.kill_storm import build_models, run_storm


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_faults_cost_their_own_requests_a_typed_error_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Daemon up, others untouched, everybody told in time, models back, books balanced."""
    models = build_models(tmp_path)
    result = await run_storm(tmp_path, models, faults=30, seed=5, clients=16)
    assert [] == result.violations(), result.tables()
    assert len(result.faults) == 30
    assert set(models) <= {fault.model for fault in result.faults}
    verdicts = result.verdicts()
    # Without somebody hit and somebody spared the storm would prove nothing.
    assert any(verdict.fault is not None for verdict in verdicts)
    assert any(verdict.outcome.ending == "completed" for verdict in verdicts)
