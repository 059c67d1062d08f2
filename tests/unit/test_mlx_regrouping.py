"""Rows say what they say alone, into whatever batches they are put on the way."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from lmx.engines.base import Choice
from lmx.engines.mlx.batch import DecodeBatch, Launched
from lmx.engines.mlx.caches import can_pad
from lmx.engines.mlx.groups import DecodeGroups
from lmx.engines.mlx.keeper import PrefixKeeper, make_store
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.prefill import Prefill
from lmx.engines.mlx.sequence import LivePrompt, LiveSequence, make_sequence
from lmx.protocol.values import Sampling
from tests.decode_device import Cost, Device
from tests.random_models import KINDS, random_model

PROMPTS = [[5, 9, 20, 31], list(range(1, 120)), [44], list(range(100, 75, -1)), [17, 4], [3] * 150]
TOKENS, SHORT = 190, 90
# With one row, two rows and so on, so that most sizes are known.
STEPS_ALIKE = (26, 4, 30, 40, 40, 4)


def dear_padding(rows: int, padded_tokens: int) -> float:
    """Rows of different length are better off apart."""
    return 0.001 * rows + 1e-3 * padded_tokens


def dear_fourth(rows: int, padded_tokens: int) -> float:
    """More than three rows are better off in turns."""
    return (0.010 if rows <= 3 else 0.050) + 1e-9 * padded_tokens


class Odd:
    """Allows odd tokens only, and says that the next mask depends on the last token."""

    is_finished = False
    is_binding = True
    decides_end = False

    def fill_mask(self, mask: Any) -> bool:
        mask[:] = -0x5555_5556  # 0xAAAAAAAA
        return True

    def consume(self, token_id: int) -> None:
        assert token_id % 2


class Timed:
    """A pass that is said to take what the device's cost function says."""

    drafts = None

    def __init__(self, launched: Launched, device: Device) -> None:
        self.sequences = launched.sequences
        self.padded_tokens = launched.padded_tokens
        self._launched = launched
        self._device = device

    def read(self) -> Any:
        self._device.run(len(self.sequences), self.padded_tokens)
        return self._launched.read()


class TimedBatch(DecodeBatch):
    """A decode batch with such passes."""

    def __init__(self, model: Any, device: Device) -> None:
        super().__init__(model, [])
        self._device = device

    def launch(self) -> Any:
        launched = super().launch()
        return None if launched is None else Timed(launched, self._device)


class Runner:
    """Prefills and decodes as the engine does, and notes whether rows were parted or waited."""

    def __init__(self, model: Any, cost: Cost) -> None:
        device = Device(cost, noise=0)
        limits = PrefillLimits(64, 4 if can_pad(model) else 1)
        self._prefill = Prefill(model, limits, PrefixKeeper(model, make_store(model, 0)))
        self._groups = DecodeGroups(partial(TimedBatch, model, device), lambda: device.now)
        self._launched: list[Launched] = []
        self.tokens: dict[int, list[int]] = {}
        self.was_parted = self.was_waiting = False

    def add(self, choice: Choice, prompt: Sequence[int]) -> LiveSequence:
        """Queue a prompt."""
        ids = list(prompt)
        sequence = make_sequence(choice, ids)
        self._prefill.add(LivePrompt(ids, [sequence]))
        self.tokens[choice.sequence_id] = []
        return sequence

    def step(self) -> bool:
        """Whether anything is left to do."""
        self._groups.drop_done()
        previous, self._launched = self._launched, self._groups.launch()
        for sequence, token_id, _ in self._groups.read(previous):
            if sequence.is_live:
                self.tokens[sequence.sequence_id].append(token_id)
                if sequence.constraint is not None:
                    sequence.constraint.consume(token_id)
        self._launched += self._groups.launch_held()
        sizes = self._groups.sizes
        self.was_parted |= len(sizes) > 1
        self.was_waiting |= sum(sizes) < len(self._groups)
        for ready in self._prefill.submit(None):
            self._groups.join(ready)
        return bool(self._launched or len(self._groups) or self._prefill.is_busy)


def choice(number: int, tokens: int = TOKENS) -> Choice:
    """Greedy, seeded, with penalties and constrained ones, of different lengths."""
    length = tokens - 7 * number
    kinds = [
        Choice(number, Sampling(length, temperature=0.0)),
        Choice(number, Sampling(length, temperature=0.9, seed=number)),
        Choice(number, Sampling(length, temperature=0.0, frequency_penalty=0.7)),
        Choice(number, Sampling(length, temperature=0.8, seed=3, top_p=0.9), Odd()),
    ]
    return kinds[number % len(kinds)]


def alone(model: Any, number: int, tokens: int = TOKENS) -> list[int]:
    """What a row says without neighbours."""
    runner = Runner(model, dear_padding)
    runner.add(choice(number, tokens), PROMPTS[number])
    while runner.step():
        pass
    return runner.tokens[number]


@pytest.mark.parametrize("kind", KINDS)
def test_moved_rows_equal_lone_ones(kind: str) -> None:
    """Greedy, seeded, penalised and constrained rows, moved between batches and made to wait."""
    model = random_model(kind)
    expected = {number: alone(model, number) for number in range(len(PROMPTS))}
    for cost in (dear_padding, dear_fourth):
        runner = Runner(model, cost)
        # Two waves, so that the second comes when every size is known.
        for offset in (100, 0):
            for number, prompt in enumerate(PROMPTS):
                runner.add(choice(number)._replace(sequence_id=number + offset), prompt)
                for _ in range(STEPS_ALIKE[number] if offset else 4):
                    runner.step()
            while offset and runner.step():
                pass
        while runner.step():
            pass
        assert expected == {n: runner.tokens[n] for n in expected}
        assert expected == {n: runner.tokens[n + 100] for n in expected}
        assert runner.was_parted or cost is dear_fourth
        assert runner.was_waiting == (cost is dear_fourth)


def test_removed_rows_leave_the_others_as_they_are() -> None:
    """Rows that are moved, and whose neighbours vanish at any time, say the same."""
    model = random_model("plain")
    expected = {number: alone(model, number, SHORT) for number in range(len(PROMPTS))}
    for victim in (1, 3):
        runner = Runner(model, dear_padding)
        rows = []
        for number, prompt in enumerate(PROMPTS):
            rows.append(runner.add(choice(number, SHORT), prompt))
            for _ in range(12):
                runner.step()
        rows[victim].is_live = False
        while runner.step():
            pass
        cut = runner.tokens.pop(victim)
        assert expected[victim][: len(cut)] == cut
        assert {n: t for n, t in expected.items() if n != victim} == runner.tokens
