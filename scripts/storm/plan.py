"""What a storm will do, drawn from its seed before it begins. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.storm.faults import ASKED, HOUSE, SIGNALS, Kind

Phase = Literal["idle", "prefill", "decoding", "loading", "-"]
PHASES: tuple[Phase, ...] = ("idle", "prefill", "decoding", "loading")
# A hang costs the whole stall limit, which is longer for real engines on a CPU: one fault in so
# many of theirs, and of the fake's.
FAULTS_PER_HANG = {True: 20, False: 10}
HOUSE_SHARE = 0.1
FAKE_SHARE = 0.6


@dataclass(frozen=True)
class Planned:
    """A fault to come, and a number between 0 and 1 for everything that is left to chance."""

    kind: Kind
    phase: Phase
    chance: float


def plan_storm(
    models: Mapping[str, bool], *, faults: int, seed: int, has_garbage: bool
) -> dict[str, list[Planned]]:
    """Faults per model, and under no name those that are nobody's.

    Args:
        models: Their ids, and whether each runs in a real engine.
        faults: How many all together.
        seed: Of all choices.
        has_garbage: Whether garbage can be sent here.
    """
    chance = random.Random(seed)  # noqa: S311  # a storm is no secret
    house = round(faults * HOUSE_SHARE)
    real = [name for name, is_real in models.items() if is_real]
    each = round((faults - house) * (1 - FAKE_SHARE) / len(real)) if real else 0
    counts = dict.fromkeys(real, each)
    fakes = [name for name in models if name not in counts]
    left = faults - house - each * len(real)
    counts |= {name: left // len(fakes) + (n < left % len(fakes)) for n, name in enumerate(fakes)}
    plan = {
        name: _plan_model(count, chance, is_real=models[name], has_garbage=has_garbage)
        for name, count in counts.items()
    }
    plan[""] = [Planned(HOUSE[n % len(HOUSE)], "-", chance.random()) for n in range(house)]
    return plan


def _plan_model(
    count: int, chance: random.Random, *, is_real: bool, has_garbage: bool
) -> list[Planned]:
    kinds: list[Kind] = [kind for kind in SIGNALS if kind != "SIGSTOP"]
    kinds += ["garbage frame"] if has_garbage else []
    kinds += [] if is_real else list(ASKED)
    # In turns, so that every kind comes even in a short storm.
    period = FAULTS_PER_HANG[is_real]
    first_hang, first_kind = chance.randrange(period), chance.randrange(len(kinds))
    planned: list[Planned] = []
    for number in range(count):
        is_hang = number % period == first_hang
        kind: Kind = "SIGSTOP" if is_hang else kinds[(first_kind + number) % len(kinds)]
        planned.append(Planned(kind, _choose_phase(kind, planned, chance), chance.random()))
    return planned


def _choose_phase(kind: Kind, before: Sequence[Planned], chance: random.Random) -> Phase:
    """A load is struck only after another fault has caused it, a step only while one runs."""
    phases = list(PHASES)
    if kind in ASKED:
        phases = ["prefill", "decoding"]
    elif not before or before[-1].kind == "SIGSTOP":
        phases.remove("loading")
    return chance.choice(phases)
