"""Pieces of prompts are as large as measured time allows, and never dangerously so before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.worker.pacing import (
    CPU_GAPS,
    CPU_LEAST_GAP_S,
    CPU_MOST_GAP_S,
    CPU_SHARES,
    DEPTH_BAND_TOKENS,
    GAP_S,
    GRAIN_TOKENS,
    IDLE_PIECE_S,
    LEAST_IDLE_TOKENS,
    LEAST_TOKENS,
    LISTEN_STEPS,
    MARGIN,
    MOST_WORTHWHILE_TOKENS,
    PAUSE_S,
    Pace,
    PaceSettings,
    Piece,
)

MOST = 2048


class Device:
    """Steps that take a fixed time, more for pieces, paid so many steps after they were asked for.

    Attributes:
        pace: What chooses the pieces.
        gaps_s: Of all steps so far.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        decode_s: float = 0.01,
        fixed_s: float = 0.0,
        token_s: float = 1e-4,
        lag: int = 0,
    ) -> None:
        self.pace = pace
        self.gaps_s: list[float] = []
        self.decode_s = decode_s
        self.fixed_s = fixed_s
        self.token_s = token_s
        self._owed = [0.0] * lag
        self._now_s = 0.0

    def step(self, tokens: int, *, streams: int = 1, depth: int = 0, pause_s: float = 0.0) -> float:
        """One step that computes so many tokens; how long it took."""
        began_s = self._now_s + pause_s
        self._owed.append(tokens * self.token_s + (self.fixed_s if tokens else 0.0))
        took_s = self._owed.pop(0) + (self.decode_s if streams else 0.0)
        self._now_s = began_s + took_s
        self.gaps_s.append(took_s)
        self.pace.observe(
            began_s=began_s,
            ended_s=self._now_s,
            stream_count=streams,
            piece=Piece(tokens, depth if tokens else 0),
            delivered=bool(streams),
        )
        return took_s

    def decode(self, steps: int = 5, *, streams: int = 1) -> None:
        """Steps without prompts."""
        for _ in range(steps):
            self.step(0, streams=streams)

    def prefill(self, steps: int, *, streams: int = 1, deepens: bool = True) -> list[int]:
        """Steps with as much as is chosen, of an endless prompt or else of ever new ones."""
        depth, pieces = 0, []
        for _ in range(steps):
            pieces.append(self.pace.choose(streams, depth))
            self.step(pieces[-1], streams=streams, depth=depth)
            depth += pieces[-1] if deepens else 0
        return pieces


def make_pace(device: str = "gpu", gap_target_s: float | None = None, most: int = MOST) -> Pace:
    """A pace that knows nothing yet."""
    return Pace(device=device, piece_tokens=most, settings=PaceSettings(gap_target_s))


def test_with_nobody_decoding_pieces_are_whole() -> None:
    """As large as the engine takes them, until they are known to take too long."""
    assert [MOST] * 6 == Device(make_pace()).prefill(6, streams=0)


def test_a_slow_device_is_not_held_for_long() -> None:
    """Nobody decodes, and yet a piece takes half a second at most: a short prompt may come."""
    device = Device(make_pace(), token_s=1e-3)
    pieces = device.prefill(30, streams=0)
    assert max(pieces[3:]) * 1e-3 <= IDLE_PIECE_S
    assert max(pieces[3:]) * 1e-3 >= 0.8 * IDLE_PIECE_S
    crawling = Device(make_pace(), token_s=0.1)
    assert LEAST_IDLE_TOKENS == crawling.prefill(12, streams=0)[-1]


def test_the_first_pieces_beside_a_stream_are_the_smallest() -> None:
    """Until it is known what they cost."""
    device = Device(make_pace())
    device.decode()
    assert [LEAST_TOKENS] * 3 == device.prefill(3)


@pytest.mark.parametrize("token_s", [1e-5, 1e-4, 1e-3])
def test_a_sample_takes_the_place_of_a_guess(token_s: float) -> None:
    """With what one pass took at load the first pieces use the gap, and keep it."""
    fixed_s, sample_tokens = 0.01, 128
    sample = sample_tokens, fixed_s + sample_tokens * token_s
    pace = Pace(device="gpu", piece_tokens=MOST, settings=PaceSettings(samples=(sample,)))
    device = Device(pace, decode_s=0.01, fixed_s=fixed_s, token_s=token_s)
    first = device.prefill(1)[0]
    took_s = 0.01 + fixed_s + first * token_s
    assert LEAST_TOKENS < first or sample[1] > GAP_S / 2
    assert took_s <= GAP_S
    assert first == MOST or took_s > 0.01 + fixed_s


def test_short_prompts_go_together_on_a_cpu_from_the_first_on() -> None:
    """As many as samples say fit into half a second, or into five steps of a slow machine."""
    samples = ((16, 0.14), (64, 0.27))
    pace = Pace(device="cpu", piece_tokens=256, settings=PaceSettings(samples=samples))
    assert int(5 * 0.14 / (0.27 / 64)) - GRAIN_TOKENS < pace.choose_together(1, 0)
    assert pace.choose(1, 0) >= LEAST_TOKENS  # no step is needed to learn what one takes
    device = Device(pace, decode_s=0.05)
    device.decode()
    assert int(0.5 / (0.27 / 64)) - GRAIN_TOKENS < pace.choose_together(1, 0) < 0.5 / (0.27 / 64)


@given(
    st.floats(0.001, 0.05),
    st.floats(0, 0.02),
    st.floats(1e-6, 1.5e-3),
    st.integers(0, 2),
    st.sampled_from([None, 0.08, 0.3]),
)
def test_the_gap_is_kept_and_used(
    decode_s: float, fixed_s: float, token_s: float, lag: int, target_s: float | None
) -> None:
    """On any device, however late it pays: no gap is over the target, and soon they come near it.

    Unless a whole piece takes less.
    """
    device = Device(
        make_pace(gap_target_s=target_s),
        decode_s=decode_s,
        fixed_s=fixed_s,
        token_s=token_s,
        lag=lag,
    )
    device.decode()
    pieces = device.prefill(300)
    limit_s = target_s or GAP_S
    if decode_s + fixed_s + LEAST_TOKENS * token_s > MARGIN * limit_s:
        # Not even the least keeps it.
        limit_s = decode_s + fixed_s + MOST_WORTHWHILE_TOKENS * token_s
    assert max(device.gaps_s) <= limit_s + 1e-9
    whole_s = decode_s + fixed_s + MOST * token_s
    worth_s = min(whole_s, limit_s) - decode_s - fixed_s
    assert pieces[-1] * token_s >= 0.3 * worth_s - 2 * MOST_WORTHWHILE_TOKENS * token_s


@given(st.floats(0.005, 0.1), st.floats(1e-5, 1e-3), st.integers(0, 2))
def test_on_a_cpu_the_gap_leaves_streams_their_share_of_the_time(
    decode_s: float, token_s: float, lag: int
) -> None:
    """Within bounds, or twice what it is alone, or for a start twice what the smallest takes."""
    device = Device(make_pace("cpu", most=256), decode_s=decode_s, token_s=token_s, lag=lag)
    device.decode()
    device.prefill(40)
    shared_s = min(max(CPU_SHARES * decode_s, CPU_LEAST_GAP_S), CPU_MOST_GAP_S)
    least_s = decode_s + 2 * LEAST_TOKENS * token_s
    assert max(device.gaps_s) <= max(CPU_GAPS * decode_s, shared_s, least_s) + 1e-9


@pytest.mark.parametrize(
    ("decode_s", "gap_s"), [(0.005, 0.2), (0.02, 0.28), (0.1, 0.4), (0.4, 0.8)]
)
def test_the_gap_of_a_cpu(decode_s: float, gap_s: float) -> None:
    """It is known once a step without prompts was seen."""
    device = Device(make_pace("cpu"), decode_s=decode_s, token_s=1e-3)
    assert None is device.pace.gap_s(1)
    device.decode()
    assert gap_s == pytest.approx(device.pace.gap_s(1))


def test_streams_get_back_what_prompts_took_together() -> None:
    """In a depth that was measured, and no less in one that was not."""
    device = Device(make_pace("cpu"), decode_s=0.1, token_s=1e-3)
    device.decode()
    device.prefill(20)
    tokens = device.pace.choose_together(1, 0)
    measured, gap_s = device.pace.rests(tokens, 1, 0), device.pace.gap_s(1)
    assert gap_s is not None
    assert measured >= tokens * 1e-3 / (gap_s - 0.1) - 1 > 0
    assert device.pace.rests(tokens, 1, 8 * DEPTH_BAND_TOKENS) >= measured
    assert 0 == make_pace("cpu").rests(tokens, 1, 0)


def test_on_a_cpu_it_listens_first() -> None:
    """Steps without prompts tell what a step costs; then prompts go on."""
    device = Device(make_pace("cpu"))
    pieces = device.prefill(LISTEN_STEPS + 1)
    assert 0 == pieces[0]
    assert pieces[-1] > 0
    assert pieces.count(0) <= LISTEN_STEPS


def test_it_does_not_listen_for_ever() -> None:
    """Where nothing can be measured prompts go on all the same."""
    pace = make_pace("cpu")
    pieces = []
    device = Device(pace)
    for _ in range(LISTEN_STEPS + 3):
        pieces.append(pace.choose(1, 0))
        device.step(pieces[-1], pause_s=10 * PAUSE_S)
    assert [0] * LISTEN_STEPS + [LEAST_TOKENS] * 3 == pieces


def test_pauses_teach_nothing() -> None:
    """Time in which the device was lent out, or idle, is nobody's cost."""
    device = Device(make_pace())
    device.decode()
    device.prefill(20)
    before = device.pace.choose(1, 0)
    for _ in range(10):
        device.step(before, pause_s=30.0)
    assert before == device.pace.choose(1, 0)


def test_an_outlier_is_forgotten() -> None:
    """After a step that took a hundred times as long, pieces come back to their size."""
    device = Device(make_pace())
    device.decode()
    usual = device.prefill(20, deepens=False)[-1]
    device.token_s *= 100
    device.step(usual)
    device.token_s /= 100
    assert device.pace.choose(1, 0) < usual
    assert device.prefill(60, deepens=False)[-1] >= 0.8 * usual


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_hold_ups_are_forgotten_though_no_three_steps_are_alike(lag: int) -> None:
    """Kernels were compiled for the first prompts, and now short ones come every other step."""
    pace = Pace(device="gpu", piece_tokens=MOST, settings=PaceSettings(samples=((128, 0.012),)))
    device = Device(pace, token_s=1e-5, fixed_s=3.0, lag=lag)
    device.decode()
    for _ in range(8):
        device.step(200)
        device.step(0)
    device.fixed_s = 0.01
    assert LEAST_TOKENS == pace.choose(1, 0)
    for _ in range(40):
        device.step(min(64, pace.choose(1, 0)))
        device.step(0)
    assert pace.choose(1, 0) >= 128


def test_a_device_that_slows_down_is_noticed() -> None:
    """Pieces shrink within a few steps, though no three are alike."""
    device = Device(make_pace())
    device.decode()
    usual = device.prefill(20)[-1]
    device.token_s *= 4
    device.prefill(10)
    for number in range(20):
        device.step(device.pace.choose(1, 0) if number % 2 else 0)
    assert max(device.gaps_s[-4:]) <= GAP_S
    assert device.pace.choose(1, 0) < usual / 2


def test_short_prompts_alone_teach_no_rate() -> None:
    """One piece that the device computes later looks free, and is not taken for that."""
    device = Device(make_pace(), lag=2)
    device.step(100, streams=0)
    device.decode(3)
    assert LEAST_TOKENS == device.pace.choose(1, 0)


def test_a_target_that_cannot_be_kept_lets_prompts_go_on() -> None:
    """Steps that take longer than the gap by themselves carry the smallest pieces.

    But for a few that find out whether larger ones were worth it.
    """
    device = Device(make_pace(gap_target_s=0.005), decode_s=0.05)
    device.decode()
    pieces = device.prefill(20)
    assert {LEAST_TOKENS, 2 * LEAST_TOKENS} == set(pieces)
    assert [LEAST_TOKENS] * 10 == pieces[10:]


@given(st.floats(0.02, 0.2), st.floats(1e-4, 1e-3), st.integers(0, 2))
def test_small_pieces_that_cost_as_much_as_large_ones_grow(
    fixed_s: float, token_s: float, lag: int
) -> None:
    """Where no piece keeps the gap, one is worth its step, as far as that is not too long."""
    device = Device(
        make_pace("cpu", 0.01, most=1024), decode_s=0.005, fixed_s=fixed_s, token_s=token_s, lag=lag
    )
    device.decode()
    last = device.prefill(80)[-1]
    assert last == MOST_WORTHWHILE_TOKENS or fixed_s <= 1.5 * last * token_s
    assert fixed_s >= 0.2 * last * token_s or last == LEAST_TOKENS


def test_no_piece_is_over_the_engine_s() -> None:
    """Not even where prefill costs nothing, nor where an engine takes less than the least."""
    free = Device(make_pace(most=2000), token_s=0.0)
    free.decode()
    assert 2000 == free.prefill(10)[-1]
    tiny = Device(make_pace(most=8), token_s=0.0)
    tiny.decode()
    assert {8} == {*tiny.prefill(10), *tiny.prefill(10, streams=0)}
