"""Which rows are decoded together, on a device that is only a cost function and a clock."""

import random
from itertools import count, pairwise
from typing import Any

import pytest

from lmx.engines.mlx.costs import PassShape, StepCosts, StepMeter
from lmx.engines.mlx.groups import DecodeGroups
from lmx.engines.mlx.prefill import Ready
from lmx.engines.mlx.sampler import Row
from lmx.engines.mlx.sequence import LiveSequence
from lmx.engines.mlx.shapes import RowState, Shaper
from tests.decode_device import COSTS, Cost, Device, cliff, cpu, gpu, serial


class Pass:
    """A submitted step of a `Batch`."""

    logprobs = drafts = None

    def __init__(self, device: Device, sequences: list[LiveSequence]) -> None:
        self.sequences = tuple(sequences)
        longest = max(sequence.length_tokens for sequence in sequences)
        self.padded_tokens = longest * len(sequences)
        self._device = device

    def read(self) -> list[tuple[LiveSequence, int, None]]:
        self._device.run(len(self.sequences), self.padded_tokens)
        return [(sequence, 0, None) for sequence in self.sequences]


class Batch:
    """Does for rows what `DecodeBatch` does, without arrays."""

    is_constrained = False

    def __init__(self, device: Device) -> None:
        self.sequences: list[LiveSequence] = []
        self._device = device

    def __len__(self) -> int:
        return len(self.sequences)

    def join(self, rows: Any) -> None:
        if self.sequences:
            self._device.copy(sum(s.length_tokens for s in self.sequences + rows.sequences))
        self.sequences = self.sequences + rows.sequences

    def take(self, wanted: Any) -> Any:
        taken = [self.sequences[row] for row in wanted]
        self.sequences = [s for s in self.sequences if s not in taken]
        if self.sequences:
            self._device.copy(sum(s.length_tokens for s in self.sequences + taken))
        return Ready(taken, [], None, [])  # type: ignore[arg-type]

    def drop_done(self) -> None:
        self.sequences = [s for s in self.sequences if s.wants_launch]

    def launch(self) -> Any:
        for sequence in self.sequences:
            sequence.launched += 1
        return Pass(self._device, self.sequences) if self.sequences else None


class Server:
    """Steps rows the way the engine does."""

    def __init__(self, cost: Cost, *, noise: float = 0.03) -> None:
        self.device = Device(cost, noise=noise)
        self.groups = DecodeGroups(lambda: Batch(self.device), lambda: self.device.now)  # type: ignore[arg-type, return-value]
        self._launched: list[Any] = []
        self._numbers = count()

    def add(self, prompt_tokens: int, max_tokens: int) -> LiveSequence:
        """One more row."""
        sequence = LiveSequence(next(self._numbers), Row(), max_tokens, prompt_tokens=prompt_tokens)
        self.groups.join(Ready([sequence], [0], None, [0]))  # type: ignore[arg-type]
        return sequence

    def step(self) -> list[int]:
        """Numbers of the rows that got a token."""
        self.groups.drop_done()
        previous, self._launched = self._launched, self.groups.launch()
        results = self.groups.read(previous)
        self._launched += self.groups.launch_held()
        return [sequence.sequence_id for sequence, _, _ in results]

    def rate(self, steps: int) -> float:
        """Tokens per second from here on."""
        began, tokens = self.device.now, 0
        for _ in range(steps):
            tokens += len(self.step())
        return tokens / (self.device.now - began)

    def remove_all(self) -> None:
        """Every answer ends."""
        self.groups.clear()
        self._launched = []


def totals(cost: Cost, streams: int, *, prompt_tokens: int = 64) -> list[float]:
    """Tokens per second with 1, 2, 3 ... streams on a server that has served each number before."""
    server = Server(cost)
    rates = []
    for is_counted in (False, True):
        for number in range(1, streams + 1):
            for _ in range(number):
                server.add(prompt_tokens, 10_000)
            server.rate(60)
            rate = server.rate(240)
            if is_counted:
                rates.append(rate)
            server.remove_all()
    return rates


@pytest.mark.parametrize("kind", COSTS)
def test_another_stream_never_lowers_the_total(kind: str) -> None:
    """On whatever device, one stream more gives as many tokens per second, within its noise."""
    rates = totals(COSTS[kind], 12)
    falls = [later / earlier for earlier, later in pairwise(rates)]
    assert min(falls) > 0.95, rates


def test_rows_take_turns_beyond_a_cliff() -> None:
    """Nine rows at the rate of eight; each of them goes on, and none gets more than its share."""
    server = Server(cliff)
    for number in (8, 9):
        server.remove_all()
        rows = [server.add(64, 10_000) for _ in range(number)]
        server.rate(400)
    assert [8] == server.groups.sizes
    before = [row.launched for row in rows]
    server.rate(720)
    gained = [row.launched - start for row, start in zip(rows, before, strict=True)]
    assert 720 * 8 == sum(gained)
    assert max(gained) - min(gained) <= 16


def test_turns_end_with_their_reason() -> None:
    """When a row leaves, the rest is stepped together again."""
    server = Server(cliff)
    for number in (8, 9):
        server.remove_all()
        rows = [server.add(64, 10_000) for _ in range(number)]
        server.rate(400)
    rows[0].is_live = False
    server.step()
    assert [8] == server.groups.sizes
    assert 8 == len(server.groups)
    assert {row.sequence_id for row in rows[1:]} == set(server.step()) | set(server.step())


@pytest.mark.parametrize("kind", ["gpu", "cpu", "serial"])
def test_no_row_waits_where_nothing_is_gained(kind: str) -> None:
    """Every step gives every row a token."""
    server = Server(COSTS[kind])
    for number in (4, 8, 12):
        for _ in range(number - len(server.groups)):
            server.add(64, 10_000)
        server.rate(100)
        assert [number] * 50 == [len(server.step()) for _ in range(50)]


def learned(cost: Cost) -> Server:
    """A server that has seen streams of many lengths come one by one."""
    server = Server(cost)
    for length in (32, 500):
        for _ in range(8):
            server.add(length, 10_000)
            server.rate(60)
        server.remove_all()
    return server


def test_mixed_lengths_are_parted_when_it_pays() -> None:
    """One row of 8,192 tokens and seven of 32: padding costs more than a second pass."""
    server = learned(cpu)
    server.add(8192, 10_000)
    for _ in range(7):
        server.add(32, 10_000)
    server.rate(80)
    assert [1, 7] == sorted(server.groups.sizes)
    together = 8 / cpu(8, 8 * 8300)
    assert server.rate(100) > 1.5 * together


def test_mixed_lengths_stay_together_when_it_does_not() -> None:
    """The same rows on a device that reads weights for longer than padding; and shorter ones."""
    for cost, long in ((gpu, 8192), (cpu, 1024)):
        server = learned(cost)
        server.add(long, 10_000)
        for _ in range(3):
            server.add(32, 10_000)
        server.rate(80)
        assert [4] == server.groups.sizes, cost


def test_nothing_is_parted_before_anything_is_known() -> None:
    """One batch, whatever the lengths."""
    server = Server(cpu)
    for length in (8192, 32, 4096, 1):
        server.add(length, 10_000)
        assert [len(server.groups)] == server.groups.sizes


def test_rows_that_end_soon_are_not_moved() -> None:
    """Copying caches has to pay within what is left of the answers."""
    costs = StepCosts()
    for rows in (1, 2, 4, 4, 4):
        for tokens in (rows * 30, rows * 4000):
            for _ in range(10):
                costs.note(PassShape(rows, tokens), cpu(rows, tokens))
    lengths = (4000, 4100, 32, 32)
    for left, is_parted in ((1, False), (2000, True)):
        shaper = Shaper(costs, [RowState(length, left) for length in lengths])
        assert is_parted == (shaper.improve([[0, 1, 2, 3]]) is not None)


def test_what_does_not_keep_its_promise_is_undone() -> None:
    """Rows that seem to be cheaper alone are put together again when the clock says otherwise."""
    server = Server(cpu)
    for _ in range(4):
        server.add(32, 10_000)
    tried = []
    for _ in range(600):
        for _ in range(5):
            # Never measured: single rows are nearly free.
            server.groups.costs.note(PassShape(1, 50), 1e-6)
        server.step()
        tried.append(server.groups.sizes != [4])
    assert 10 < sum(tried) < 60
    assert not any(tried[-250:])


@pytest.mark.parametrize("seed", range(6))
def test_rows_come_and_go_in_any_order(seed: int) -> None:
    """Every row gets all of its tokens exactly once, wherever it is moved in the meantime."""
    rng = random.Random(seed)  # noqa: S311
    server = Server(rng.choice([cpu, cliff, serial]), noise=0.3)
    wanted: dict[int, int] = {}
    rows: list[LiveSequence] = []
    found: dict[int, int] = {}
    for _ in range(1500):
        if rng.random() < 0.08 and len(server.groups) < 14:
            limit = rng.randint(1, 300)
            row = server.add(rng.choice([1, 30, 1000, 9000]), limit)
            wanted[row.sequence_id] = limit
            rows.append(row)
        for number in server.step():
            found[number] = found.get(number, 0) + 1
    while len(server.groups):
        for number in server.step():
            found[number] = found.get(number, 0) + 1
    for number in server.step():
        found[number] = found.get(number, 0) + 1
    assert wanted == found


def test_costs_are_learned_from_passes() -> None:
    """The table and the slope come close to the truth from noisy passes."""
    rng = random.Random(3)  # noqa: S311
    costs = StepCosts()
    for _ in range(300):
        for rows in (1, 4, 8):
            tokens = rows * rng.randint(30, 2000)
            costs.note(PassShape(rows, tokens), cpu(rows, tokens) * rng.uniform(0.95, 1.05))
    assert cpu(4, 4000) == pytest.approx(costs.predict(PassShape(4, 4000)), rel=0.05)
    assert cpu(6, 9000) == pytest.approx(costs.predict(PassShape(6, 9000)), rel=0.05)
    assert costs.slope == pytest.approx(2e-5, rel=0.2)
    assert [True, False] == [costs.knows(8), costs.knows(6)]


def test_a_slope_needs_evidence() -> None:
    """Noise alone, or one length alone, says nothing about padding."""
    rng = random.Random(4)  # noqa: S311
    costs = StepCosts()
    for step in range(100):
        costs.note(PassShape(4, 4 * (100 + step)), 0.1 * rng.uniform(0.8, 1.2))
    assert costs.slope < 2e-5
    flat = StepCosts()
    flat.note(PassShape(4, 400), 0.1)
    flat.note(PassShape(4, 400), 0.2)
    assert flat.slope == 0


def test_a_size_that_is_not_used_is_forgotten() -> None:
    """So that one that was slow once is tried again."""
    costs = StepCosts()
    for _ in range(20):
        costs.note(PassShape(9, 900), 1.0)
    for _ in range(1200):
        costs.note(PassShape(8, 800), 0.1)
    assert not costs.knows(9)
    assert costs.predict(PassShape(9, 900)) == pytest.approx(0.1)


def test_held_rows_go_apart_when_waiting_costs_more_than_a_pass() -> None:
    """A row whose masks the host must make first leaves the others to the device meanwhile."""
    rows = [RowState(100, 500), RowState(100, 500), RowState(100, 500, is_held=True)]
    costs = StepCosts()
    for size in (1, 2, 3):
        costs.note(PassShape(size, size * 100), 0.010 + 0.001 * size)
    together = [[0, 1, 2]]
    assert Shaper(costs, rows, stall_s=0.001).improve(together) is None
    slow = Shaper(costs, rows, stall_s=0.050).improve(together)
    assert slow is not None
    assert [[0, 1], [2]] == sorted(sorted(group) for group in slow.groups)


def test_every_row_is_in_one_group() -> None:
    """Whatever was measured, a shape is a partition of the rows."""
    rng = random.Random(6)  # noqa: S311
    for _ in range(300):
        costs = StepCosts()
        for _ in range(rng.randint(0, 40)):
            size = rng.randint(1, 12)
            costs.note(PassShape(size, size * rng.randint(1, 4000)), rng.uniform(0.001, 1))
        count_of_rows = rng.randint(1, 12)
        rows = [
            RowState(rng.randint(1, 9000), rng.randint(1, 500), rng.random() < 0.3)
            for _ in range(count_of_rows)
        ]
        cut = rng.randint(1, count_of_rows)
        numbers = list(range(count_of_rows))
        current = [group for group in (numbers[:cut], numbers[cut:]) if group]
        shaper = Shaper(costs, rows, stall_s=rng.uniform(0, 0.1))
        shape = shaper.improve(current)
        assert len(current) == 1 or shaper.place(current) == 0
        if shape is None:
            continue
        assert numbers == sorted(row for group in shape.groups for row in group)
        assert shape.width is None or 0 < shape.width < count_of_rows


def test_a_late_host_does_not_mix_up_what_passes_cost() -> None:
    """Both passes of a step are found done at once: their sum is shared as they are known."""
    costs, clock = StepCosts(), count()
    for rows in (1, 7):
        for tokens in (rows * 100, rows * 3000):
            for _ in range(10):
                costs.note(PassShape(rows, tokens), cpu(rows, tokens))
    meter = StepMeter(costs, lambda: float(next(clock)))
    shapes = [PassShape(1, 3000), PassShape(7, 700)]
    expected = [costs.predict(shape) for shape in shapes]
    for step in range(60):
        end = (1 + step) * sum(expected)
        meter.note(shapes, [end, end])
    assert expected == pytest.approx([costs.predict(shape) for shape in shapes], rel=0.05)
    assert 8 / sum(expected) == pytest.approx(meter.rate)
