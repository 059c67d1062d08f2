"""A scrape as values, read by Prometheus' own parser."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


class Scraped:
    """Every sample of one scrape.

    Args:
        text: What ``/metrics`` answered.
    """

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(text):
            self.kinds[family.name] = family.type
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                self.samples[sample.name, labels] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """A sample's value; 0 if there is none."""
        return self.samples.get((name, tuple(sorted(labels.items()))), 0.0)

    def counters(self) -> Mapping[tuple[str, Labels], float]:
        """Samples that may never fall."""
        endings = ("_total", "_bucket", "_count", "_sum")
        return {key: v for key, v in self.samples.items() if key[0].endswith(endings)}

    def imbalances(self) -> list[str]:
        """The laws of conservation that do not hold."""
        names = ("refused_total", "awaiting_model", "admitted_total")
        received = sum(self.value(f"lmx_requests_{name}") for name in names)
        ends = ("completed", "failed", "cancelled")
        admitted = sum(self.value(f"lmx_requests_{name}_total") for name in ends)
        admitted += self.value("lmx_in_flight_requests")
        broken = []
        if received != self.value("lmx_requests_total"):
            broken.append(f"received {self.value('lmx_requests_total')} is not {received}")
        if admitted != self.value("lmx_requests_admitted_total"):
            broken.append(f"admitted {self.value('lmx_requests_admitted_total')} is not {admitted}")
        return broken
