"""A device that is only a cost function and a clock, for tests of how decoding rows are grouped."""

import random
from collections.abc import Callable

# Seconds of a pass over so many rows, and over so many padded tokens in them.
Cost = Callable[[int, int], float]


def gpu(rows: int, padded_tokens: int) -> float:
    """Bound by reading the weights: rows are nearly free, and so is padding."""
    return 0.010 + 0.00005 * rows + 1e-7 * padded_tokens


def cpu(rows: int, padded_tokens: int) -> float:
    """Every row costs, and attention over padding does."""
    return 0.070 + 0.004 * rows + 2e-5 * padded_tokens


def cliff(rows: int, padded_tokens: int) -> float:
    """Beyond eight rows another kernel is taken, and it is three times slower."""
    return (0.010 if rows <= 8 else 0.030) + 1e-7 * padded_tokens


def serial(rows: int, padded_tokens: int) -> float:
    """Nothing is gained by batching."""
    return 0.010 * rows + 1e-7 * padded_tokens


COSTS: dict[str, Cost] = {"gpu": gpu, "cpu": cpu, "cliff": cliff, "serial": serial}


class Device:
    """A clock that passes advance, with noise."""

    def __init__(self, cost: Cost, *, noise: float = 0.03) -> None:
        self.now = 0.0
        self.copied_tokens = 0
        self._cost = cost
        self._noise = noise
        self._random = random.Random(5)  # noqa: S311

    def run(self, rows: int, padded_tokens: int) -> None:
        """One pass; now and then something else holds it up."""
        factor = 1 + self._noise * self._random.uniform(-1, 1)
        if self._noise and self._random.random() < 0.02:
            factor *= 2
        self.now += self._cost(rows, padded_tokens) * factor

    def copy(self, tokens: int) -> None:
        """Caches are moved: twice what reading them costs."""
        self.copied_tokens += tokens
        self.now += 2 * (self._cost(1, tokens) - self._cost(1, 0))
