"""Tables and figures of benchmarks, from results made up for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts import bench_agent, bench_fairness, bench_load, bench_lookup, bench_prefix
from scripts.bench.asking import Answer
from scripts.bench.plots import DRAWERS, draw, short
from scripts.bench.report import Results
from scripts.bench_serving import MODEL_COLUMNS, Row, model_cells


def serving() -> Results:
    """Three numbers of streams; the total falls at the last."""
    rows = [Row(1, [10.0], [11.0]), Row(2, [20.0], [19.0]), Row(4, [20.0], [15.0])]
    for row in rows:
        row.peer = [5.0]
        row.ttft_ms, row.itl_ms = [100.0, 200.0], [10.0]
    return [row.result() for row in rows]


def fairness() -> Results:
    """LMX within all targets, and a peer that stops streams for the whole prompt."""
    alone = {"chunks": 10, "short_alone": [50.0], "stream_alone": [20.0, 22.0]}
    alone |= {"long_alone": [1000.0]}
    ours = {"stream_beside": [30.0, 140.0], "long_by_stream": [1100.0]}
    ours |= {"short_beside": [150.0, 199.0], "long_by_shorts": [1150.0]}
    theirs = {"stream_beside": [20.0, 1000.0], "long_by_stream": [1010.0]}
    theirs |= {"short_beside": [900.0], "long_by_shorts": [2000.0]}
    return [{"side": "LMX", **alone, **ours}, {"side": "mlx_lm.server", **alone, **theirs}]


def prefix() -> Results:
    """Two sizes on LMX; the longer is judged, and its restarted answer differs."""
    cold = Answer({0: "a"}, {0: 1.0}, 2.0, 100, 0, 5)
    warm = Answer({0: "a"}, {0: 0.04}, 1.0, 100, 99, 5)
    other = Answer({0: "b"}, {0: 0.2}, 1.0, 100, 50, 5)
    short = bench_prefix.ttft_result("LMX", [cold, warm], warm)
    long = bench_prefix.ttft_result("LMX", [cold, warm], other)
    return [short | {"prompt_tokens": 50}, long]


def choices() -> Results:
    """Eight choices that take a tenth more."""
    return [{"side": "LMX", "prompt_tokens": 900, "one": [100.0], "many": [110.0]}]


def agent() -> Results:
    """Two turns; the peer takes three times as long."""
    turn = {"total_s": 1.0, "ttft_s": 0.5, "prompt_tokens": 100, "cached_tokens": 75}
    turn |= {"completion_tokens": 8}
    return [
        {"side": "LMX", "agents": 1, "total_s": 2.0, "turns": [turn, turn]},
        {"side": "mlx_lm.server", "agents": 1, "total_s": 6.0, "turns": [turn, turn]},
    ]


def load() -> Results:
    """Two requests of a kind each, three of them good."""
    kinds = {k: {"ttft": [100.0, 200.0], "itl": [10.0]} for k in ("chat", "long", "agent")}
    return [
        {
            "side": "LMX",
            "capacity": 2.0,
            "arrivals": 1.6,
            "seconds": 3.0,
            "tokens": 90,
            "good": 3,
            "kinds": kinds,
        }
    ]


def lookup() -> Results:
    """A copy at twice the speed, whose answer is another one."""
    result: dict[str, Any] = {"work": "copy", "streams": 1, "with": [20.0], "without": [10.0]}
    result |= {"is_same": False, "copied": [0.9], "tokens": 128, "peer": "p", "peer_speeds": [9.0]}
    return [result]


CANNED = {
    "serving": serving,
    "fairness": fairness,
    "prefix": prefix,
    "choices": choices,
    "agent": agent,
    "load": load,
    "lookup": lookup,
}


def test_a_total_that_falls_is_told() -> None:
    """The ratio is LMX over the other, and each total is compared with the one before."""
    lines = model_cells(serving())
    assert {len(MODEL_COLUMNS)} == {len(line) for line in lines}
    assert ["1", "10.0", "11.0", "**1.100**", "5.0", "**2.20**", "200 / 200", "10 / 10", "-"] == (
        lines[0]
    )
    assert ["-", "yes", "**no**"] == [line[-1] for line in lines]


def test_fairness_is_judged_by_twice_alone_and_a_chunk() -> None:
    """A chunk is a tenth of the long prompt's time; the long prompt may pay 15 %."""
    stream, short = bench_fairness.stream_cells(fairness()), bench_fairness.short_cells(fairness())
    assert {len(bench_fairness.STREAM_COLUMNS)} == {len(line) for line in stream}
    assert {len(bench_fairness.SHORT_COLUMNS)} == {len(line) for line in short}
    assert ["144: yes", "144: **no**"] == [line[4] for line in stream]
    assert ["+10.0 % (yes)", "+1.0 % (yes)"] == [line[-1] for line in stream]
    assert ["200: yes", "200: **no**"] == [line[3] for line in short]
    assert ["+15.0 % (yes)", "+100.0 % (**no**)"] == [line[-1] for line in short]


def test_prefixes_are_judged_at_the_longest_prompt() -> None:
    """Shares of cold, and whether every answer was the same to the letter."""
    short, long = bench_prefix.ttft_cells(prefix())
    assert len(bench_prefix.TTFT_COLUMNS) == len(short)
    assert ("**4.0 %**", "yes") == (short[4], short[-1])
    assert ["**4.0 %** (yes)", "200", "**20.0 %** (**no**)", "99, 50", "**no**"] == long[4:]


def test_many_choices_are_judged() -> None:
    """Against 1.05 of one."""
    assert [["LMX", "900", "100", "110", "**1.100**", "**no**"]] == (
        bench_prefix.choice_cells(choices())
    )


def test_sessions_are_compared_in_total() -> None:
    """How many times as long the others take."""
    ours, theirs = bench_agent.session_cells(agent())
    assert len(bench_agent.COLUMNS) == len(ours)
    assert ("**1.00**", "**3.00**", "75 %") == (ours[2], theirs[2], theirs[7])


def test_goodput_counts_good_requests_only() -> None:
    """Of all kinds, over the whole time."""
    (line,) = bench_load.load_cells(load())
    assert len(bench_load.COLUMNS) == len(line)
    assert ["200 / 200", "10 / 10", "30.0", "3 of 6", "1.00"] == line[3:]
    lines = bench_load.kind_cells(load())
    assert ["chat", "long", "agent"] == [cells[1] for cells in lines]


def test_limits_of_good_requests_come_from_lmx_alone() -> None:
    """A multiple of each kind's TTFT, never less than of a chat's."""
    alone = {"ttft": {"chat": 10.0, "long": 100.0, "agent": 1.0}, "gap": 2.0}
    limits = bench_load.make_limits(alone)
    assert {"chat": 50.0, "long": 500.0, "agent": 50.0} == limits.ttft_ms
    assert 16.0 == limits.gap_ms


def test_lookup_is_judged_with_one_stream() -> None:
    """And another answer is told."""
    (line,) = bench_lookup.lookup_cells(lookup())
    assert len(bench_lookup.COLUMNS) == len(line)
    assert ["90 %", "10.0", "20.0", "**2.00**", "1.8: yes", "**no**", "p", "9.0"] == line[3:]
    (line,) = bench_lookup.lookup_cells([lookup()[0] | {"streams": 4}])
    assert "-" == line[7]


def test_decode_speed_leaves_the_prompt_out() -> None:
    """Tokens after the first of each answer, over the longest of their spans."""
    answers = [
        Answer({0: "a"}, {0: 1.0}, 3.0, completion_tokens=11),
        Answer({0: "a"}, {0: 2.0}, 3.0, completion_tokens=11),
    ]
    assert 10.0 == bench_lookup.decode_speed(answers)
    assert 0.0 == bench_lookup.decode_speed([Answer()])


def test_work_is_new_in_every_repeat() -> None:
    """So that no prompt is known from before, but the same for both values of the field."""
    for name in ("copy", "loop", "free"):
        first = bench_lookup.make_work(name, 2, 0)
        assert first == bench_lookup.make_work(name, 2, 0)
        assert not set(first.texts) & set(bench_lookup.make_work(name, 2, 1).texts)


@pytest.mark.parametrize("bench", sorted(DRAWERS))
def test_every_benchmark_has_a_figure(bench: str, tmp_path: Path) -> None:
    """A transparent PNG named as the results, with something drawn on it."""
    machine = {"cores": "2", "system": "Linux", "python": "3", "date": "2000-01-01"}
    facts = {"bench": bench, "engine": "MLX", "model": "tiny", "machine": machine}
    source = tmp_path / "some.json"
    source.write_text(json.dumps(facts | {"results": CANNED[bench]()}))
    path = draw(source, tmp_path / "plots")
    assert tmp_path / "plots" / "some.png" == path
    with Image.open(path) as image:
        least, most = image.convert("RGBA").getchannel("A").getextrema()
    assert (0, 255) == (least, most)


def test_results_of_no_benchmark_are_refused(tmp_path: Path) -> None:
    """By name of the file."""
    source = tmp_path / "some.json"
    source.write_text('{"bench": "tea"}')
    with pytest.raises(ValueError, match=r"some\.json: not one of serving"):
        draw(source, tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0123456, "0.0123"), (9.876, "9.88"), (99.96, "100"), (12345.6, "12,346")],
)
def test_bars_have_short_numbers(value: float, expected: str) -> None:
    """Three digits, and whole numbers from a hundred on."""
    assert expected == short(value)
