"""What Prometheus reads: every metric that the docs list, spelled so that its own parser agrees."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lmx.daemon.tables import FoldingTable
from lmx.protocol.messages import Vitals
from lmx.protocol.values import Kept, Memory, Pacing
from lmx.schema.metrics import METRICS, Buckets, Metric, Sample, encode_scrape
from lmx.skills.counts import RunCounts
from lmx.web.admin_views import ready_models
from lmx.web.scrape import Scrape
from tests.lifecycle import House, open_house

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([^`]+)` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)


def make_scrape(house: House) -> Scrape:
    """Of a house, and of one skill that was called once."""
    runs = FoldingTable(RunCounts, limit=8)
    runs.of("local/s@1.0.0").endings["ok"] += 1
    return Scrape(house.telemetry, house.dispatch, house.loader, skill_runs=runs)


def parse(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_docs_list_every_metric() -> None:
    """Name, kind, labels and meaning stand in the table for operators as they are served."""
    rows = [Metric(m[1], m[2], tuple(filter(None, m[3].split(", "))), m[4]) for m in rows_of_docs()]
    assert list(METRICS) == rows


def rows_of_docs() -> list[re.Match[str]]:
    """The rows of the table."""
    return list(ROW.finditer(DOCS.read_text()))


async def test_every_metric_is_served(autojump_clock: object) -> None:
    """A scrape names exactly the metrics of the table, in its order, whatever has happened."""
    async with open_house({"a": 10}) as (house, _):
        scrape = make_scrape(house)
        assert list(METRICS) == [metric for metric, _ in scrape.families()]
        await house.load("a")
        await house.ask("a")
        assert list(METRICS) == [metric for metric, _ in scrape.families()]
        told = [line for line in scrape.encode().decode().splitlines() if line.startswith("# TYPE")]
        assert [f"# TYPE {metric.name} {metric.kind}" for metric in METRICS] == told


async def test_a_scrape_shows_what_happened(autojump_clock: object) -> None:
    """One load, one answered request: the numbers stand under the model's name."""
    async with open_house({"a": 10}) as (house, _):
        await house.load("a")
        await house.ask("a")
        for _, ready in ready_models(house.loader):
            ready.worker.link.vitals = Vitals(Memory(10, kept=Kept(700, 8, 9)), Pacing(96, 0.15))
        found = parse(make_scrape(house).encode())
        model, served = (("model", "a"),), (("model_name", "a"),)
        expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
            ("lmx_requests_total", ()): 1,
            ("lmx_requests_completed_total", ()): 1,
            ("lmx_loaded_models", ()): 1,
            ("lmx_memory_budget_bytes", ()): 1000,
            ("lmx_memory_reserved_bytes", ()): 10,
            ("lmx_model_memory_bytes", model): 10,
            ("lmx_prefill_piece_tokens", model): 96,
            ("lmx_gap_target_seconds", model): 0.15,
            ("lmx_prefix_cache_bytes", model): 700,
            ("lmx_prefix_cache_entries", model): 8,
            ("lmx_prefix_cache_evictions_total", model): 9,
            ("lmx_model_readiness_state", model): 1,
            ("lmx_model_state", (("model", "a"), ("state", "ready"))): 1,
            ("lmx_model_state", (("model", "a"), ("state", "loading"))): 0,
            ("lmx_model_loads_total", model): 1,
            ("lmx_model_load_duration_seconds", model): 1,
            ("lmx_model_error_rate", model): 0,
            ("vllm:num_requests_running", served): 0,
            ("vllm:prompt_tokens_total", served): 3,
            ("vllm:generation_tokens_total", served): 4,
            ("vllm:request_success_total", (("finished_reason", "stop"), *served)): 1,
            ("vllm:time_to_first_token_seconds_count", served): 1,
            ("vllm:e2e_request_latency_seconds_count", served): 1,
            ("vllm:e2e_request_latency_seconds_bucket", (("le", "+Inf"), *served)): 1,
            ("lmx_request_duration_seconds_count", ()): 1,
            ("lmx_skill_runs_total", (("outcome", "ok"), ("skill", "local/s@1.0.0"))): 1,
        }
        assert expected == {name: found.get(name) for name in expected}


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_name_can_be_a_label(name: str) -> None:
    """Quotes, backslashes and line ends in a model's name come back as they were."""
    metric = Metric("x", "gauge", ("model",), "X.")
    text = encode_scrape([(metric, [Sample((name,), 1)])])
    if "\r" not in name and len(f"a{name}b".splitlines()) == 1:
        assert {("x", (("model", name),)): 1.0} == parse(text)
    assert 3 == text.count(b"\n")


@pytest.mark.parametrize("labels", [(), ("a",)])
def test_a_histogram_is_spelled_in_full(labels: tuple[str, ...]) -> None:
    """Cumulative buckets, the unbounded one, the sum and the count."""
    metric = Metric("x", "histogram", ("model",)[: len(labels)], "X.")
    text = encode_scrape([(metric, [Sample(labels, Buckets((0.5, 1.0), (1, 3, 4), 9.5))])])
    own = tuple(zip(metric.labels, labels, strict=True))
    assert {
        ("x_bucket", (("le", "0.5"), *own)): 1,
        ("x_bucket", (("le", "1.0"), *own)): 3,
        ("x_bucket", (("le", "+Inf"), *own)): 4,
        ("x_sum", own): 9.5,
        ("x_count", own): 4,
    } == parse(text)


async def test_a_scrape_of_twenty_models_is_quick(autojump_clock: object) -> None:
    """It is written on the loop that writes tokens, so it takes less than ten milliseconds."""
    async with open_house({}) as (house, _):
        for number in range(20):
            house.telemetry.models.of(f"model/{number}").outcomes["stop"] += 1
        scrape = make_scrape(house)
        took_s = []
        for _ in range(10):
            began_s = time.perf_counter()
            text = scrape.encode()
            took_s.append(time.perf_counter() - began_s)
        assert text.count(b"\n") > 20 * 6 * 20
        assert min(took_s) < 0.010
