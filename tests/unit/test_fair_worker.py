"""The scheduler in virtual time: streams keep their pace, short requests pass, clients share."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.worker.pacing import CPU_MOST_GAP_S, GAP_S, LEAST_TOKENS, TOGETHER_S
from lmx.worker.scheduler import VITALS_PERIOD_S
from lmx.worker.turns import ANSWER_WEIGHT, LEVEL_S
from tests.virtual_worker import Asked, Machine, PipelinedEngine, VirtualWorker

STEP_S = 0.01
GPU, PIPED = Machine(), Machine(kind=PipelinedEngine)
CPU = Machine("cpu", tokens_per_s=2_000.0, chunk=256)
LONG = 30_000

ARRIVALS = st.lists(
    st.builds(
        Asked,
        st.floats(0.5, 20.0),
        st.integers(1, 8_000),
        st.integers(1, 50),
        st.sampled_from(["a", "b"]),
        st.integers(-1, 1),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(ARRIVALS, st.sampled_from([GPU, Machine(tokens_per_s=700.0)]))
def test_a_running_stream_keeps_its_pace(arrivals: list[Asked], machine: Machine) -> None:
    """Whatever prompts come beside it, and every one of them is answered."""
    worker = VirtualWorker(machine)
    stream, *others = worker.run(Asked(0.0, 10, 3_000), *arrivals)
    assert max(stream.gaps_s) <= GAP_S + 1e-9
    assert all(other.ended_s is not None for other in others)


@pytest.mark.parametrize("tokens_per_s", [700.0, 5_000.0])
def test_pipelined_streams_keep_their_pace(tokens_per_s: float) -> None:
    """Also where the device computes a piece long after it was asked for."""
    machine = Machine(kind=PipelinedEngine, tokens_per_s=tokens_per_s)
    prompts = [Asked(1.0 + number, 3_000, 20) for number in range(5)]
    stream, *_ = VirtualWorker(machine).run(Asked(0.0, 1, 2_000), *prompts)
    assert max(stream.gaps_s) <= GAP_S + 1e-9


def test_on_a_cpu_a_stream_has_half_the_time_at_most() -> None:
    """Its gap is twice what it is alone, unless that leaves a long prompt little of the time."""
    slow = Machine("cpu", step_ms=300.0, tokens_per_s=2_000.0, chunk=256)
    usual = Machine("cpu", step_ms=100.0, tokens_per_s=2_000.0, chunk=256)
    for machine, longest_s in ((slow, 2 * 0.3), (usual, CPU_MOST_GAP_S), (CPU, GAP_S)):
        stream, _ = VirtualWorker(machine).run(Asked(0.0, 10, 2_000), Asked(1.0, 5_000, 5))
        assert max(stream.gaps_s) <= longest_s + 1e-9


@pytest.mark.parametrize("machine", [GPU, PIPED])
def test_a_long_prompt_pays_little_for_a_stream(machine: Machine) -> None:
    """Beside a running stream it takes less than 15 % longer than by itself, on a GPU."""
    (alone,) = VirtualWorker(machine).run(Asked(0.0, LONG, 5))
    _, beside = VirtualWorker(machine).run(Asked(0.0, 10, 1_000), Asked(1.0, LONG, 5))
    assert beside.ttft_s <= 1.15 * alone.ttft_s


def test_short_prompts_that_come_together_are_computed_together() -> None:
    """On a CPU several join a batch at once, and its streams keep their pace on average."""
    before, count = [Asked(0.0, 10, 3_000), Asked(0.5, 200, 3_000)], 8
    worker = VirtualWorker(CPU, slots=16)
    stream, _, *others = worker.run(*before, *[Asked(1.0, 60, 3_000)] * count)
    firsts = {round(other.token_times_s[0], 6) for other in others}
    assert len(firsts) <= count // 2
    assert max(stream.gaps_s) <= TOGETHER_S + 2 * STEP_S
    during = [at_s for at_s in stream.token_times_s if 1.0 <= at_s <= max(firsts) + 0.5]
    assert (during[-1] - during[0]) / (len(during) - 1) <= 1.1 * GAP_S


def test_the_target_trades_the_stream_for_the_prompt() -> None:
    """On a CPU, too, a long prompt pays little if gaps may be that long."""
    (alone,) = VirtualWorker(CPU).run(Asked(0.0, LONG, 5))
    patient = VirtualWorker(CPU, gap_target_s=0.1)
    stream, beside = patient.run(Asked(0.0, 10, 3_000), Asked(1.0, LONG, 5))
    assert beside.ttft_s <= 1.2 * alone.ttft_s
    assert max(stream.gaps_s) <= 0.1 + 1e-9


@pytest.mark.parametrize("machine", [GPU, CPU])
@pytest.mark.parametrize("has_stream", [False, True])
@pytest.mark.parametrize("client", ["", "other"])
def test_a_short_request_passes_a_long_prompt(
    machine: Machine,
    has_stream: bool,  # noqa: FBT001
    client: str,
) -> None:
    """Its first token comes within twice its own time and one piece; the long one hardly waits."""
    (solo,) = VirtualWorker(machine).run(Asked(0.0, 200, 5))
    before = [Asked(0.0, 10, 4_000)] if has_stream else []
    piece_s = GAP_S if has_stream else machine.chunk / machine.tokens_per_s
    *_, without = VirtualWorker(machine).run(*before, Asked(1.0, LONG, 5))
    for at_s in (1.3, 1.5, 1.7, 1.9):
        short = Asked(at_s, 200, 5, client)
        *_, long, quick = VirtualWorker(machine).run(*before, Asked(1.0, LONG, 5), short)
        assert quick.ttft_s <= 2 * solo.ttft_s + piece_s
        assert long.ttft_s <= 1.15 * without.ttft_s


def served(worker: VirtualWorker, requests: list[Asked]) -> dict[str, float]:
    """What each client had, in tokens of prompts: of all that has begun."""
    totals: dict[str, float] = {}
    for asked, seen in zip(requests, worker.seen, strict=True):
        prompt = asked.prompt_tokens if seen.token_times_s else 0
        used = prompt + ANSWER_WEIGHT * len(seen.token_times_s)
        totals[asked.client] = totals.get(asked.client, 0.0) + used
    return totals


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 40)), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 40)), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_clients_get_equal_shares(
    many: list[tuple[int, int]], few: list[tuple[int, int]], slots: int
) -> None:
    """Two that always have something waiting had the same at any time, within a few requests.

    One asks for ten times as many at once. Answers are not interrupted, so that as much as runs
    may be on one side.
    """
    kinds = {"many": (many, 400), "few": (few, 40)}
    requests = [
        Asked(0.0, *sizes[number % len(sizes)], client)
        for client, (sizes, count) in kinds.items()
        for number in range(count)
    ]
    worker = VirtualWorker(slots=slots)
    largest = max(p + ANSWER_WEIGHT * t for sizes in (many, few) for p, t in sizes)
    worker.run(*requests, until_s=0.1)
    for until_s in (0.5, 1.0, 2.0):
        worker.run(until_s=until_s)
        few_started = sum(bool(seen.token_times_s) for seen in worker.seen[400:])
        if few_started > 40 - slots:
            return  # nothing of its waits any more
        totals = served(worker, requests)
        assert abs(totals.get("many", 0) - totals.get("few", 0)) <= (slots + 2) * largest


def test_one_request_beside_many() -> None:
    """A client that asks once is served next, however many of another wait."""
    many = [Asked(0.0, 500, 20, "many") for _ in range(100)]
    *_, one = VirtualWorker(slots=2).run(*many, Asked(1.0, 500, 20, "one"))
    assert one.ttft_s <= 2 * (20 * STEP_S + 2 * 0.05)


def test_urgent_requests_pass_those_that_wait() -> None:
    """With one slot the order of the answers is that of the priorities."""
    priorities = [0, 10, -10, 5, -10]
    requests = [Asked(0.0, 100, 5, str(p), p) for p in priorities]
    seen = VirtualWorker(slots=1).run(Asked(0.0, 100, 5, priority=-100), *requests)[1:]
    order = sorted(range(5), key=lambda index: seen[index].ttft_s)
    assert [-10, -10, 0, 5, 10] == [priorities[index] for index in order]


def test_urgent_prompts_are_computed_first() -> None:
    """Also a long one before a short one, once both have slots."""
    long, short = VirtualWorker().run(
        Asked(0.0, LONG, 5, priority=-10), Asked(0.1, 200, 5, priority=0)
    )
    assert long.token_times_s[0] <= short.token_times_s[0]


def test_a_batch_is_not_starved() -> None:
    """Normal requests fill the only slot without end; after half a minute one of a batch has it."""
    normal = [Asked(0.2 * number, 1_000, 20, str(number)) for number in range(300)]
    *_, batch = VirtualWorker(slots=1).run(*normal, Asked(0.0, 1_000, 20, "batch", 10))
    assert 10 * LEVEL_S <= batch.ttft_s <= 10 * LEVEL_S + 5.0


@pytest.mark.parametrize("is_same", [True, False])
def test_requests_for_several_slots_are_not_starved(is_same: bool) -> None:  # noqa: FBT001
    """Single ones come faster than they are answered, and yet four slots come free together."""
    single = [Asked(0.02 * number, 50, 20, "" if is_same else str(number)) for number in range(600)]
    *_, four = VirtualWorker(slots=4).run(*single, Asked(1.0, 50, 20, "", count=4))
    assert four.ttft_s <= 3.0


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    """Short ones fill the device without end; the long one has its share of it."""
    short = [Asked(0.05 * number, 450, 1) for number in range(1_000)]
    *_, long = VirtualWorker().run(*short, Asked(1.0, LONG, 5))
    assert long.ttft_s <= 3 * LONG / GPU.tokens_per_s + 5.0


@given(ARRIVALS)
@settings(max_examples=20)
def test_pacing_changes_no_answer(arrivals: list[Asked]) -> None:
    """Each request has as many tokens as it asked for, however its prompt was cut."""
    for seen, asked in zip(VirtualWorker(GPU).run(*arrivals), arrivals, strict=True):
        assert asked.tokens == len(seen.token_times_s)


def test_the_daemon_hears_how_prompts_are_computed() -> None:
    """With the pieces beside a stream, twice a second at most, and the gap they are to keep."""
    worker = VirtualWorker(GPU)
    worker.run(Asked(0.0, 10, 1_000), Asked(1.0, LONG, 5))
    paces = [(at_s, vital.pacing) for at_s, vital in worker.vitals if vital.pacing is not None]
    assert worker.vitals
    beside = [pacing for at_s, pacing in paces if at_s > 2.0]
    assert len(beside) >= 2
    assert all(pacing.gap_target_s == GAP_S for pacing in beside)
    assert all(LEAST_TOKENS < pacing.piece_tokens <= GPU.chunk for pacing in beside)
    assert all(late - early >= VITALS_PERIOD_S for (early, _), (late, _) in pairwise(paces))
