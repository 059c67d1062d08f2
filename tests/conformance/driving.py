"""How conformance checks drive an engine: open one, add requests, step, and sort the results.

It knows only `lmx.engines.base`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from lmx.engines.base import Choice, Engine, LoadedEngine, StepResult, Tokenizer
from lmx.protocol.values import Sampling

Maker = Callable[[int, int], LoadedEngine]
Request = tuple[list[int], Sampling]

CONTEXT_TOKENS = 512
MAX_SEQUENCES = 4
# More than any check needs; a sequence that never ends fails instead of hanging.
MAX_STEPS = 2000
MEMORY_SLACK_BYTES = 1 << 20
TEXTS = ("the hen and the heron", "hello", "on and on", "an end " * 12)


@contextmanager
def opened(
    maker: Maker, *, context_tokens: int = CONTEXT_TOKENS, max_sequences: int = MAX_SEQUENCES
) -> Iterator[tuple[Engine, Tokenizer]]:
    """A fresh engine and its tokenizer, closed twice at the end, which must be harmless."""
    with opened_with_grammars(
        maker, context_tokens=context_tokens, max_sequences=max_sequences
    ) as loaded:
        yield loaded.engine, loaded.tokenizer


@contextmanager
def opened_with_grammars(
    maker: Maker, *, context_tokens: int = CONTEXT_TOKENS, max_sequences: int = MAX_SEQUENCES
) -> Iterator[LoadedEngine]:
    """Everything that loading gives."""
    loaded = maker(context_tokens, max_sequences)
    try:
        yield loaded
    finally:
        loaded.engine.close()
        loaded.engine.close()


def greedy(max_tokens: int) -> Sampling:
    """Temperature 0."""
    return Sampling(max_tokens, temperature=0.0)


def add(engine: Engine, sequence_id: int, request: Request) -> None:
    """Add a request with one answer."""
    ids, sampling = request
    engine.add([Choice(sequence_id, sampling)], ids)


def run(
    engine: Engine, requests: Mapping[int, Request], *, until: int | None = None
) -> dict[int, list[StepResult]]:
    """Add all requests, step until all (or sequence `until`) ended, and return their results."""
    for sequence_id, (ids, sampling) in requests.items():
        engine.add([Choice(sequence_id, sampling)], ids)
    found: dict[int, list[StepResult]] = {}
    for _ in range(MAX_STEPS):
        results = collect(found, engine.step())
        ended = {i for i, tokens in results.items() if tokens[-1].finish is not None}
        if until in ended or ended >= set(requests):
            return found
    pytest.fail(f"not all of {sorted(requests)} ended")


def run_alone(engine: Engine, requests: Mapping[int, Request]) -> dict[int, list[StepResult]]:
    """The results of each request with no neighbour."""
    return {i: run(engine, {i: request})[i] for i, request in requests.items()}


def step_times(engine: Engine, count: int) -> list[StepResult]:
    """The results of so many steps, fewer if nothing is left to do."""
    results: list[StepResult] = []
    for _ in range(count):
        if engine.free_slots == engine.info.max_sequences:
            break
        step = engine.step()
        # Several tokens at once are for a sequence that is alone.
        assert len({result.sequence_id for result in step}) in {1, len(step)} or not step
        results += step
    return results


def collect(
    found: dict[int, list[StepResult]], results: list[StepResult]
) -> dict[int, list[StepResult]]:
    """Sort results into `found` by sequence; returns `found`.

    What says how a token was computed is taken out, what was skipped of prompts and what was
    drafted: it depends on what came before, and nothing else may.
    """
    for result in results:
        plain = result._replace(cached_tokens=0, drafted_tokens=0, is_drafted=False)
        found.setdefault(result.sequence_id, []).append(plain)
    return found
