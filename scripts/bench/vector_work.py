"""What the sides of the benchmark of vectors are asked for, and what they answer.

Read by the peer's interpreter, too, so it needs nothing but the standard library.
"""

import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench import workload

TEXT = workload.TEXT + (
    " while engineers measure pressure voltage and temperature against last week's forecast of "
    "demand"
)
# Passages of search indices: half of them have less than 25 words, few more than a hundred.
MEDIAN_LOG_WORDS, SPREAD = 3.2, 0.8
FEWEST_WORDS, MOST_WORDS = 3, 180
QUERY_WORDS = 8
# Of a batch's longest row: padding shorter ones costs more than another batch.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Work:
    """Texts in requests of equal size.

    Attributes:
        texts: All texts.
        size: Texts of one request.
        clients: How many requests are under way at once.
        query: What each text is scored for; empty to embed them.
    """

    texts: list[str]
    size: int
    clients: int = 1
    query: str = ""

    def groups(self, size: int) -> list[list[str]]:
        """The texts in groups of a size."""
        return [self.texts[at : at + size] for at in range(0, len(self.texts), size)]


@dataclass(frozen=True)
class Outcome:
    """What one side did.

    Attributes:
        count: Texts.
        seconds: From the texts to the last number.
        compute_s: Of these, in the model itself; 0 where it is not known.
        first: The first text's numbers, to see whether the sides computed the same.
    """

    count: int
    seconds: float
    compute_s: float = 0.0
    first: tuple[float, ...] = ()


def make_texts(count: int, *, seed: int) -> list[str]:
    """Texts of the lengths that passages have; other ones for each seed."""
    chooser = random.Random(seed)  # noqa: S311  # any text will do
    texts = []
    for _ in range(count):
        words = int(chooser.lognormvariate(MEDIAN_LOG_WORDS, SPREAD))
        texts.append(_sentence(chooser, min(MOST_WORDS, max(FEWEST_WORDS, words))))
    return texts


def make_query(*, seed: int) -> str:
    """A short text."""
    return _sentence(random.Random(-1 - seed), QUERY_WORDS)  # noqa: S311


def _sentence(chooser: random.Random, words: int) -> str:
    return " ".join(chooser.choices(TEXT.split(), k=words)).capitalize() + "."


def answer_lines(compute: Callable[[list[str], str], tuple[Sequence[float], float]]) -> None:
    """Serve requests from standard input until it ends.

    Args:
        compute: Texts and the query, or an empty one, to the first text's numbers and the seconds
            in the model itself.
    """
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        groups, first, inner_s = request["groups"], None, 0.0
        began_s = time.perf_counter()
        for group in groups:
            numbers, compute_s = compute(group, request["query"])
            first = numbers if first is None else first
            inner_s += compute_s
        seconds = time.perf_counter() - began_s
        count = sum(map(len, groups))
        outcome = Outcome(count, seconds, inner_s, tuple(map(float, first or ())))
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)


def batches_within(lengths: Sequence[int], budget_tokens: int, most_rows: int) -> list[list[int]]:
    """Row numbers in batches of rows of like lengths, the longest first.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most tokens of a batch, padding to its longest row included.
        most_rows: Most rows of a batch.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        rows = batches[-1] if batches else []
        longest = lengths[rows[0]] if rows else 0
        is_alike = lengths[row] >= LEAST_SHARE * longest
        has_room = len(rows) < most_rows and (len(rows) + 1) * longest <= budget_tokens
        if rows and is_alike and has_room:
            rows.append(row)
        else:
            batches.append([row])
    return batches


def run_batches(
    lengths: Sequence[int],
    budget_tokens: int,
    most_rows: int,
    compute: Callable[[list[int]], Any],
) -> tuple[Sequence[float], float]:
    """Compute rows in batches, and time it.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most tokens of a batch.
        most_rows: Most rows of a batch.
        compute: Gives the numbers of rows by their places, as an array of a line each.

    Returns:
        The first row's numbers, and the seconds that all took.
    """
    first: Sequence[float] = ()
    began_s = time.perf_counter()
    for batch in batches_within(lengths, budget_tokens, most_rows):
        numbers = compute(batch)
        if 0 in batch:
            first = numbers[batch.index(0)].tolist()
    return first, time.perf_counter() - began_s
