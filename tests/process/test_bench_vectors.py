"""The benchmark of vectors on the fake engine: its sides do the same work and count it."""

import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.http_vectors import run_work
from scripts.bench.servers import piped_engine
from scripts.bench.vector_work import Outcome, Work, batches_within, make_texts
from scripts.bench_vectors import BARE, BASE64, Row, compare_numbers, measure_piped
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon

EMBEDDER = "fake:emb?purpose=embedding"
RERANKER = "fake:rank?purpose=reranking"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with an embedder and a reranking model."""
    with shared_daemon(tmp_path_factory.mktemp("home"), EMBEDDER, RERANKER) as made:
        yield made


@pytest.mark.parametrize(("size", "clients"), [(1, 1), (5, 1), (12, 1), (1, 4), (5, 4)])
def test_all_sides_give_the_first_texts_vector(daemon: Daemon, size: int, clients: int) -> None:
    """Both encodings over HTTP and the bare engine agree, however the texts are sent."""
    work = Work(make_texts(12, seed=3), size, clients)
    with piped_engine("bare_vectors", "fake", "purpose=embedding", "embedding") as engine:
        bare = measure_piped(engine, is_shared=True)(work)
    served = [run_work(daemon.port, work, form, model="auto") for form in ("float", "base64")]
    assert bare.first
    assert [(12, pytest.approx(bare.first, abs=1e-6))] * 2 == [(o.count, o.first) for o in served]
    assert 0 < bare.compute_s <= bare.seconds


def test_all_sides_give_the_first_texts_score(daemon: Daemon) -> None:
    """Also where another document is ranked before it."""
    work = Work(make_texts(12, seed=4), 6, query="bread and tea")
    with piped_engine("bare_vectors", "fake", "purpose=reranking", "reranking") as engine:
        bare = measure_piped(engine, is_shared=True)(work)
    served = run_work(daemon.port, work, "", model="auto")
    assert 1 == len(bare.first)
    assert (12, pytest.approx(bare.first, abs=1e-6)) == (served.count, served.first)


def test_a_refused_request_ends_the_measurement(daemon: Daemon) -> None:
    """A speed of refusals would be no speed."""
    with pytest.raises(RuntimeError, match="1 of 1 requests failed"):
        run_work(daemon.port, Work(["x"], 1), "runes", model="auto")


def test_a_side_that_ends_is_noticed() -> None:
    """An engine that cannot load its model is no engine that computes nothing."""
    with (
        piped_engine(
            "bare_vectors", "fake", "purpose=embedding&fail=exit&fail_step=0", "x"
        ) as gone,
        pytest.raises(RuntimeError, match="a side of the benchmark ended with"),
    ):
        gone.ask({"groups": [], "query": ""})


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 600), st.integers(1, 9))
def test_batches_hold_every_row_once(lengths: list[int], budget: int, most: int) -> None:
    """Within the budget, padding included, and the most rows; only a row alone may exceed it."""
    batches = batches_within(lengths, budget, most)
    assert list(range(len(lengths))) == sorted(row for batch in batches for row in batch)
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        padded = len(batch) * longest
        assert len(batch) <= most
        assert all(2 * lengths[row] >= longest for row in batch)
        assert padded <= budget or 1 == len(batch)


def test_ratios_are_taken_within_repeats() -> None:
    """The median of the ratios, not the ratio of the medians; a side that is missing has a dash."""
    row = Row(10, 1, 1)
    row.outcomes[BARE] = [Outcome(10, seconds) for seconds in (1.0, 2.0, 10.0)]
    row.outcomes[BASE64] = [Outcome(10, seconds) for seconds in (2.0, 2.0, 5.0)]
    assert f"{statistics.median((0.5, 1.0, 2.0)):.3f}" == row.ratio(BASE64, BARE)
    assert ("5.0", "-", "-") == (row.speed(BARE), row.speed("peer"), row.ratio(BASE64, "peer"))


def test_texts_are_the_same_for_a_seed_and_others_for_another() -> None:
    """So that all sides of a repeat get the same, and no repeat what another had."""
    assert make_texts(20, seed=1) == make_texts(20, seed=1)
    assert not set(make_texts(20, seed=1)) & set(make_texts(20, seed=2))
    lengths = [len(text.split()) for text in make_texts(500, seed=1)]
    assert 15 < statistics.median(lengths) < 35
    assert min(lengths) >= 3
    assert max(lengths) <= 180


def test_other_numbers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A side that computes something else is named."""
    bare = Outcome(1, 1.0, first=(1.0, 0.0))
    sides = {BARE: bare, "turned": Outcome(1, 1.0, first=(0.0, 1.0)), "cut": Outcome(1, 1.0)}
    compare_numbers(sides)
    said = capsys.readouterr().err
    assert "turned gives another vector: 0.0000" in said
    assert "cut gives 0 numbers, not 2" in said
    compare_numbers({BARE: Outcome(1, 1.0, first=(0.5,)), "score": Outcome(1, 1.0, first=(0.6,))})
    assert "score gives 0.6, not 0.5" in capsys.readouterr().err
