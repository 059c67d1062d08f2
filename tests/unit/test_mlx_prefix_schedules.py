"""Over many random schedules of requests that share beginnings, nobody gets another's tokens.

Requests come, go and are cancelled at any step; memory is too small for all of them, some are read
from disk, and lone ones may check drafts. Every token of every answer must be the one that mlx-lm
gives for its prompt alone.
"""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from lmx.engines.base import Choice, PrefillShare, PrefixUse
from lmx.engines.mlx.caches import can_pad
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.keeper import MlxTier, make_store
from lmx.engines.mlx.leaves import leaves_of
from lmx.engines.mlx.packing import MlxPacker
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.speculation import Speculation
from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.records import DiskSettings, Namespace
from lmx.protocol.values import ModelInfo, Sampling
from tests.random_models import COMMON, KINDS, random_model

SLOTS, TOKENS = 4, 14
SYSTEMS = [[(5 * i * i + i + shift) % 199 + 1 for i in range(70)] for shift in (0, 3)]
OPERATIONS = 90
BUDGETS_TOKENS = (260, 3000)


class World:
    """One model, what it should answer, and an engine that lives through a schedule."""

    def __init__(self, model: Any, root: Path, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.model = model
        self.engine = self._open(root, BUDGETS_TOKENS[seed % len(BUDGETS_TOKENS)])
        self.prompts = [[*s, 7, n] for s in SYSTEMS for n in (1, 2)]
        self.live: dict[int, tuple[list[int], list[int]]] = {}
        self.skipped = self.number = 0

    def _open(self, root: Path, budget_tokens: int) -> MlxEngine:
        probe = make_prompt_cache(self.model)
        self.model(mx.array([list(range(1, 33))]), cache=probe)
        leaf_bytes = sum(a.nbytes for leaf in leaves_of(probe) for a in flat(leaf.state))
        store = make_store(self.model, budget_tokens * max(64, leaf_bytes // 256))
        namespace = Namespace(model="random", dtype="float32", library="one")
        settings = DiskSettings(cap_bytes=3_000_000)
        cache = DiskCache.open(root, namespace, settings=settings)
        disk = MlxTier(store, cache, MlxPacker(leaves_of(make_prompt_cache(self.model))))
        return MlxEngine(
            self.model,
            ModelInfo(context_tokens=512, max_sequences=SLOTS),
            end_ids=frozenset(),
            limits=PrefillLimits(chunk_tokens=32, max_rows=8 if can_pad(self.model) else 1),
            vocabulary_size=COMMON["vocab_size"],
            savings=Savings(store, Speculation(is_on=True), disk),
        )

    def act(self) -> None:
        """One thing that may happen."""
        draw = self.random.random()
        is_alone = self.random.random() < 0.5  # lone rows are not copied into a batch
        if draw < 0.25 and self.engine.free_slots and not (is_alone and self.live):
            self.begin()
        elif draw < 0.32 and self.live:
            number = self.random.choice(sorted(self.live))
            self.engine.remove(number)
            self.keep(number)
        elif draw < 0.36 and not self.live:
            self.engine.rest()
        else:
            self.step()

    def begin(self) -> None:
        """A prompt that was asked before, or goes on from an answer."""
        popular = self.prompts[:4] if self.random.random() < 0.5 else self.prompts
        prompt = self.random.choice(popular)
        self.number += 1
        count = self.random.randrange(1, TOKENS)
        choice = Choice(self.number, Sampling(count, temperature=0.0))
        bounds = tuple(b for b in (40, 70) if b < len(prompt))
        self.engine.add([choice], prompt, prefix=PrefixUse("s", bounds))
        self.live[self.number] = (prompt, [])

    def step(self) -> None:
        """Everybody goes on, or the prompts that are drawn, as far as is drawn."""
        names = list(self.engine.prefilling())
        self.random.shuffle(names)
        shares = [PrefillShare(name, self.random.randrange(1, 64)) for name in names]
        for result in self.engine.step(None if self.random.random() < 0.3 else shares):
            self.skipped += result.cached_tokens
            self.live[result.sequence_id][1].append(result.token_id)
            if result.finish is not None:
                self.keep(result.sequence_id)

    def keep(self, number: int) -> None:
        """Check an answer, and let later prompts go on from it."""
        prompt, answer = self.live.pop(number)
        if not answer:
            return
        step = generate_step(mx.array(prompt), self.model, max_tokens=len(answer))
        assert [int(token) for token, _ in step] == answer
        if len(prompt) < 200:
            self.prompts.append([*prompt, *answer, self.random.randrange(1, 199)])


def flat(state: Any) -> list[mx.array]:
    """The arrays of a cache's state."""
    if isinstance(state, mx.array):
        return [state]
    return [a for part in state for a in flat(part)] if isinstance(state, list | tuple) else []


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One random model of each kind; they are only read."""
    return {kind: random_model(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_its_own(
    models: dict[str, Any], tmp_path: Path, kind: str, seed: int
) -> None:
    """Whatever was kept, evicted, written, read, split and shared on the way."""
    world = World(models[kind], tmp_path, seed)
    for _ in range(OPERATIONS):
        world.act()
    while world.live:
        world.step()
    assert world.skipped > 0
    world.engine.close()
