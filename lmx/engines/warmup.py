"""What an engine does once before its first request. Knows the contract, no library.

The first answer compiles kernels and touches weights, so that no client waits for that. Timed
passes say how much of a prompt running streams can bear beside them: devices differ a hundredfold,
and the first guess is made before anything else was measured.
"""

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from lmx.engines.base import Choice, Engine, PrefixUse
from lmx.protocol.values import Sampling

WARM_UP_ID = -1
# Those who meet: tokens of their answers, and steps until the next one comes. The second leaves
# first, then the third.
COMPANY_STAYS = ((12, 3), (4, 2), (5, 1))
COMPANY_TOKENS = 20
# On a GPU enough that reading the weights is not all of it; on slow ones half a second with a large
# model.
GPU_SAMPLES = (128,)
# On a CPU small ones pay for the weights as well, and large ones may take minutes.
CPU_SAMPLES = (16, 64, 256)
LONGEST_SAMPLE_S = 1.0
# Nothing here goes on from what was computed for anybody, on disk either; nor do they from this.
NOBODY = PrefixUse(salt="warm-up")


def warm_up(engine: Engine, samplings: Sequence[Sampling]) -> None:
    """Answer a prompt of two tokens once for each of these settings."""
    for sampling in samplings:
        engine.add([Choice(WARM_UP_ID, sampling)], [0, 0], prefix=NOBODY)
        _step_until_idle(engine)


def warm_up_company(engine: Engine) -> None:
    """Let a prompt join another, and both leave at different times: moving rows takes kernels, too.

    Args:
        engine: Loaded, and nothing else in it.
    """
    if engine.info.max_sequences < len(COMPANY_STAYS):
        return
    for row, (tokens, steps) in enumerate(COMPANY_STAYS):
        sampling = Sampling(max_tokens=tokens, seed=0)
        choice = Choice(WARM_UP_ID - row, sampling)
        engine.add([choice], [row] * COMPANY_TOKENS, prefix=NOBODY)
        for _ in range(steps):
            engine.step()
    _step_until_idle(engine)
    engine.shrink()


def warm_up_passes(engine: Engine, shapes: Iterable[tuple[int, int]]) -> None:
    """Compute prompts of so many rows and tokens together, where their first time takes longer.

    Args:
        engine: Loaded, and nothing else in it.
        shapes: Rows and tokens of each pass; those that the engine has no room for are left out.
    """
    for rows, tokens in shapes:
        if rows > engine.info.max_sequences or tokens + 2 > engine.info.context_tokens:
            continue
        for row in range(rows):
            choice = Choice(WARM_UP_ID - row, Sampling(max_tokens=1, seed=0))
            engine.add([choice], [row] * (tokens + 1), prefix=NOBODY)
        _step_until_idle(engine)
        engine.shrink()  # or a longer one would go on from this


def sample_passes(engine: Engine, forget: Callable[[], None]) -> tuple[tuple[int, float], ...]:
    """Time passes of a few sizes, on a CPU as far as they do not take long.

    Args:
        engine: Loaded, and nothing else in it.
        forget: Drops everything the engine keeps of what it computed.

    Returns:
        Prompt tokens of each and the seconds it took, smaller ones first.
    """
    most = min(engine.chunk_tokens, engine.info.context_tokens - 2)
    is_gpu = engine.info.device == "gpu"
    sizes = GPU_SAMPLES if is_gpu else CPU_SAMPLES
    found: list[tuple[int, float]] = []
    token_s = 0.0
    for tokens in sorted({min(size, most) for size in sizes}):
        if tokens < 1 or tokens * token_s > LONGEST_SAMPLE_S:
            break
        if is_gpu:
            _time_pass(engine, tokens, forget)  # the first one of its size compiles
        took_s = _time_pass(engine, tokens, forget)
        token_s = took_s / tokens
        found.append((tokens, took_s))
    return tuple(found)


def _time_pass(engine: Engine, tokens: int, forget: Callable[[], None]) -> float:
    choice = Choice(WARM_UP_ID, Sampling(max_tokens=1, seed=0))
    engine.add([choice], [0] * (tokens + 1), prefix=NOBODY)  # the last one is not part of a pass
    engine.quiesce()
    began_s = perf_counter()
    engine.step()
    engine.quiesce()
    took_s = perf_counter() - began_s
    engine.remove(WARM_UP_ID)
    engine.step()
    forget()  # or the next one would go on from this, and the disk would get it
    return took_s


def _step_until_idle(engine: Engine) -> None:
    while engine.free_slots < engine.info.max_sequences:
        engine.step()
