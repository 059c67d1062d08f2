"""The benchmarks of chat models on the fake engine: what they send is answered and counted."""

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import psutil
import pytest

from scripts import bench_agent, bench_fairness, bench_load, bench_lookup, bench_prefix
from scripts.bench.asking import ask
from scripts.bench.load import Fleet, chat_body
from scripts.bench.servers import Server
from scripts.bench.sides import LMX, Side, add_side_arguments, measure_sides, open_sides
from scripts.bench.workload import Session
from tests.http.shared import shared_daemon

MODEL = "fake:x?step_ms=1&tokens=100000&context=40000&max_sequences=16&prefill_ms=5&chunk=64"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A daemon whose prompts take time."""
    with shared_daemon(tmp_path_factory.mktemp("home"), MODEL) as daemon:
        yield Server(daemon.port, psutil.Process(daemon.pid))


@pytest.fixture
def side(server: Server) -> Side:
    """The daemon as a side."""
    return Side(LMX, "auto", lambda: nullcontext(server))


def test_a_fleet_reads_until_a_condition_holds(server: Server) -> None:
    """Streams run side by side, and one that is hung up is over."""
    with Fleet(server.port) as fleet:
        endless = fleet.send(chat_body("a", model="auto", max_tokens=30_000))
        fleet.read_until(lambda: len(endless.arrivals_s) >= 3)
        short = fleet.send(chat_body("b", model="auto", max_tokens=5))
        fleet.read_until(lambda: short.ended_s > 0)
        assert (1, 0.0, 5) == (fleet.under_way, endless.ended_s, short.token_count)
        fleet.hang_up(endless)
        fleet.hang_up(endless)
        fleet.read_all()
    assert short.ttft_ms > 0


def test_a_wait_has_an_end(server: Server) -> None:
    """A server that never gives what is waited for does not hold up the run."""
    with Fleet(server.port, timeout_s=0.05) as fleet, pytest.raises(TimeoutError):
        fleet.read_until(lambda: False)


def test_an_answer_has_every_choice(server: Server) -> None:
    """With the server's own counts of tokens."""
    answer = ask(server.port, chat_body("a", model="auto", max_tokens=4, n=3))
    assert {0, 1, 2} == answer.texts.keys() == answer.first_s.keys()
    assert (12, True) == (answer.completion_tokens, answer.prompt_tokens > 0)


def test_a_refusal_is_raised(server: Server) -> None:
    """With the server's words."""
    with pytest.raises(RuntimeError, match=r"refused with 400: .*runes"):
        ask(server.port, chat_body("a", model="auto", max_tokens=4, runes=1))


def test_a_long_prompt_is_measured_beside_others(side: Side) -> None:
    """Every part has its numbers, and a chunk takes about what the engine was told."""
    plan = bench_fairness.Plan(chunk_tokens=64, chunks=40, repeats=1)
    result = bench_fairness.measure_side(side, plan)
    assert 4 == len(result["short_alone"])
    assert result["short_beside"]
    assert bench_fairness.SOLO_GAPS == pytest.approx(len(result["stream_alone"]), abs=2)
    assert len(result["stream_beside"]) > 10
    assert bench_fairness.chunk_ms(result) > 4
    assert bench_fairness.stream_cells([result])
    assert bench_fairness.short_cells([result])


def test_prefixes_and_choices_are_measured(side: Side) -> None:
    """The fake engine repeats itself, so its answers are the same, and shares a prompt's work."""
    plan = bench_prefix.Plan(sizes=(640, 1280), choice_tokens=640, repeats=2, settle_s=0)
    results = bench_prefix.measure_ttft(side, plan)
    assert [True, True] == [result["is_same"] for result in results]
    assert all(result["cold"] >= 5 * (result["prompt_tokens"] // 64) > 0 for result in results)
    choices = bench_prefix.measure_choices(side, plan)
    assert (2, 2) == (len(choices["one"]), len(choices["many"]))


def test_a_session_sends_what_was_said(side: Side) -> None:
    """Prompts grow by the answer and the next result; all agents' turns are counted."""
    sessions = [Session(f"{n}", 50, 20, 3) for n in range(2)]
    result = bench_agent.measure_side(side, sessions, 4)
    assert (2, 6) == (result["agents"], len(result["turns"]))
    grown = [turn["prompt_tokens"] for turn in result["turns"][:3]]
    assert sorted(set(grown)) == grown
    assert [4] * 6 == [turn["completion_tokens"] for turn in result["turns"]]


def test_a_mixed_load_is_answered_whole(side: Side, server: Server) -> None:
    """Every request has a first text, and the tokens are those asked for."""
    plan = bench_load.Plan(requests=8, share=0.8, seed=1, scale=0.2)
    result, limits = bench_load.measure_side(side, server, plan, None)
    assert 8 == sum(len(found["ttft"]) for found in result["kinds"].values())
    asked = sum(arrival.max_tokens for arrival in plan.load(bench_load.MAIN, 8))
    assert asked == result["tokens"]
    assert result["arrivals"] == pytest.approx(0.8 * result["capacity"])
    assert limits == bench_load.measure_side(side, server, plan, limits)[1]


def test_lookup_is_compared_on_the_same_requests(side: Side, server: Server) -> None:
    """Both values of the field have an answer and a speed in every repeat."""
    plan = argparse.Namespace(work=["copy", "free"], streams=[1, 2], repeats=2, tokens=8)
    results = bench_lookup.measure_lmx(side, server, plan)
    assert [("copy", 1), ("copy", 2), ("free", 1), ("free", 2)] == [
        (result["work"], result["streams"]) for result in results
    ]
    assert {(2, 2)} == {(len(result["with"]), len(result["without"])) for result in results}
    assert [8, 16, 8, 16] == [result["tokens"] for result in results]


def side_options(*arguments: str) -> argparse.Namespace:
    """What a command line asks for."""
    parser = argparse.ArgumentParser()
    add_side_arguments(parser)
    return parser.parse_args(arguments)


def test_sides_are_named_by_the_models_format(tmp_path: Path) -> None:
    """The peer goes with the format and can be left out; none of them runs yet."""
    model = str(tmp_path)
    asked = [
        ("--model", model),
        ("--gguf", model, "--peer-dir", model),
        ("--gguf", model),
        ("--model", model, "--no-peer"),
    ]
    found = []
    for arguments in asked:
        with open_sides(side_options(*arguments), context_tokens=100) as sides:
            found.append([side.name for side in sides])
    assert [["LMX", "mlx_lm.server"], ["LMX", "xllamacpp"], ["LMX"], ["LMX"]] == found


@pytest.mark.parametrize("arguments", [("--model", "/nowhere"), ("--model", "/", "--setting", "x")])
def test_what_cannot_be_measured_is_said(arguments: tuple[str, str]) -> None:
    """Before anything is started."""
    with (
        pytest.raises(SystemExit, match=r"does not exist|must be SECTION.KEY=VALUE"),
        open_sides(side_options(*arguments), context_tokens=100),
    ):
        pass


def test_a_side_that_fails_is_left_out(side: Side, capsys: pytest.CaptureFixture[str]) -> None:
    """What the others gave is worth its time, and why it is missing is said."""
    calls = count()

    def measure(_: Side) -> str:
        if not next(calls):
            raise RuntimeError("it ended")
        return "second"

    assert ["second"] == measure_sides([side, side], measure)
    assert "was not measured: it ended" in capsys.readouterr().err


def test_an_interrupt_keeps_what_was_measured(side: Side) -> None:
    """A run that is cut short still says what it knows."""
    names = iter(["first"])

    def measure(_: Side) -> str:
        try:
            return next(names)
        except StopIteration:
            raise KeyboardInterrupt from None

    assert ["first"] == measure_sides([side, side], measure)
