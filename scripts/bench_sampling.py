"""What choosing tokens costs: milliseconds per decode step by settings and batch size.

It drives one engine directly, without daemon or pipe, and prints Markdown. Every kind is measured
in short turns against greedy in the same process, because a shared machine's speed drifts.

    python scripts/bench_sampling.py MODEL_DIRECTORY [--steps 24] [--turns 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmx.engines import load_engine
from lmx.engines.base import Choice, Constraint, Engine, LoadedEngine
from lmx.protocol.messages import Load
from lmx.protocol.values import Grammar, Sampling

BATCHES = (1, 8, 16)
WARM_STEPS = 4
PROMPT_TOKENS = 32
SCHEMA = """{"type": "object", "additionalProperties": false, "required": ["people"],
 "properties": {"people": {"type": "array", "minItems": 20, "items": {"type": "object",
  "required": ["name", "age", "tags"], "additionalProperties": false, "properties": {
   "name": {"type": "string"}, "age": {"type": "integer"},
   "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}}}}}}}"""


class TimedConstraint:
    """Passes everything on and keeps how long each mask took, in microseconds."""

    def __init__(self, inner: Constraint, times_us: list[float]) -> None:
        self._inner = inner
        self._times_us = times_us

    def fill_mask(self, mask: np.ndarray[Any, np.dtype[np.int32]]) -> bool:
        """Timed."""
        start = time.perf_counter()
        is_restricted = self._inner.fill_mask(mask)
        self._times_us.append((time.perf_counter() - start) * 1e6)
        return is_restricted

    def consume(self, token_id: int) -> None:
        """Not timed."""
        self._inner.consume(token_id)

    @property
    def is_finished(self) -> bool:
        """As the constraint says."""
        return self._inner.is_finished

    @property
    def is_binding(self) -> bool:
        """As the constraint says."""
        return self._inner.is_binding

    @property
    def decides_end(self) -> bool:
        """As the constraint says."""
        return self._inner.decides_end


class Bench:
    """One loaded model and the kinds of rows to fill a batch with."""

    def __init__(self, loaded: LoadedEngine, steps: int) -> None:
        self._engine: Engine = loaded.engine
        self._grammars = loaded.grammars
        self._steps = steps
        self.mask_times_us: list[float] = []
        # Long enough that nobody ends while the clock runs.
        self._max_tokens = 4 * (steps + WARM_STEPS)

    def kinds(self) -> dict[str, Callable[[int], Choice]]:
        """What row ``i`` of a batch is, by the name of the kind."""
        return {
            "greedy": lambda i: self._choice(i, temperature=0.0),
            "temperature": self._choice,
            "seeds": lambda i: self._choice(i, seed=i),
            "mixed samplers": self._mixed,
            "top_p 0.95": lambda i: self._choice(i, top_p=0.95),
            "penalties, greedy": lambda i: self._choice(
                i, temperature=0.0, repetition_penalty=1.1, presence_penalty=0.5
            ),
            "top 5 log-probabilities, greedy": lambda i: self._choice(
                i, temperature=0.0, top_logprobs=5
            ),
            "JSON schema in half the rows": self._half_schema,
        }

    def milliseconds(self, choice_of: Callable[[int], Choice], batch: int) -> float:
        """Of one step, as the median over a turn."""
        choices = [choice_of(index) for index in range(batch)]
        for index, choice in enumerate(choices):
            self._engine.add([choice], list(range(100 + index, 100 + index + PROMPT_TOKENS)))
        while len(self._engine.step()) < batch:
            pass
        for _ in range(WARM_STEPS):
            self._engine.step()
        times = []
        for _ in range(self._steps):
            start = time.perf_counter()
            self._engine.step()
            times.append((time.perf_counter() - start) * 1e3)
        for choice in choices:
            self._engine.remove(choice.sequence_id)
        return statistics.median(times)

    def _choice(self, index: int, **settings: Any) -> Choice:
        return Choice(index, Sampling(self._max_tokens, ignore_eos=True, **settings))

    def _mixed(self, index: int) -> Choice:
        mixes: tuple[dict[str, Any], ...] = (
            {"temperature": 0.0},
            {"temperature": 0.8, "top_p": 0.95},
            {"temperature": 1.0, "seed": index},
            {"temperature": 0.7, "top_k": 40, "min_p": 0.05},
        )
        return self._choice(index, **mixes[index % len(mixes)])

    def _half_schema(self, index: int) -> Choice:
        choice = self._choice(index, temperature=0.0)
        if index % 2:
            return choice
        inner = self._grammars.compile(Grammar("json_schema", SCHEMA, "response_format"))
        return choice._replace(constraint=TimedConstraint(inner, self.mask_times_us))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    loaded = load_engine(Load("mlx", str(options.directory), max(BATCHES)))
    if not isinstance(loaded, LoadedEngine):
        parser.error("the model generates no text")
    bench = Bench(loaded, options.steps)
    kinds = bench.kinds()
    print("| rows | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |")
    print("|---|" + "---|" * len(BATCHES))
    for name, choice_of in kinds.items():
        cells = []
        for batch in BATCHES:
            pairs = [
                (bench.milliseconds(kinds["greedy"], batch), bench.milliseconds(choice_of, batch))
                for _ in range(options.turns)
            ]
            ratio = statistics.median(mine / greedy for greedy, mine in pairs)
            cells.append(f"{min(mine for _, mine in pairs):.1f} ms ({ratio:.2f}×)")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    times = sorted(bench.mask_times_us)
    p50, p99 = (times[int(len(times) * share)] for share in (0.5, 0.99))
    print(f"\nGrammar masks, per row: p50 {p50:.0f} µs, p99 {p99:.0f} µs, {len(times)} masks.")
    loaded.engine.close()


if __name__ == "__main__":
    main()
