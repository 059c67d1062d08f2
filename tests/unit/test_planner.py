"""What is planned beside running streams, step by step."""

from typing import Any

import pytest

from lmx.protocol.values import ModelInfo
from lmx.worker.pacing import PaceSettings
from lmx.worker.planner import Planner

STREAM, FIRST_PROMPT, PROMPTS = 1, 2, 4
SAMPLES = ((16, 0.1), (64, 0.2))


class Prompts:
    """As much of an engine as is asked: prompts of 32 tokens each."""

    info = ModelInfo(context_tokens=1024, max_sequences=8, device="cpu")
    chunk_tokens = 256

    def __init__(self) -> None:
        self.pending = dict.fromkeys(range(FIRST_PROMPT, FIRST_PROMPT + PROMPTS), 32)

    def prefilling(self) -> dict[int, int]:
        return dict(self.pending)


def make_planner(engine: Any) -> Planner:
    """One stream runs, and the prompts have their slots."""
    planner = Planner(engine, pace=PaceSettings(samples=SAMPLES))
    for number in (STREAM, *engine.pending):
        planner.admit(planner.enter("me", priority=0, tokens=32, now_s=0.0), [number])
    planner.take_token(STREAM)
    return planner


@pytest.mark.parametrize("is_computed", [True, False])
def test_streams_rest_from_prompts_that_were_computed(*, is_computed: bool) -> None:
    """After several at once; not after such that the engine left for the next step."""
    engine = Prompts()
    planner = make_planner(engine)
    shares = planner.plan(0.0)
    assert len(shares) > 1
    if is_computed:
        for share in shares[:-1]:
            del engine.pending[share.sequence_id]
            planner.take_token(share.sequence_id)
        engine.pending[shares[-1].sequence_id] = 1
    planner.observe(0.0, 0.1, delivered=True)
    assert is_computed == (not planner.plan(0.1))
