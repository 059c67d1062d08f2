"""A storm's result: everything that was not as promised, and the numbers as tables."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.storm.clients import Outcome
from scripts.storm.judge import Fault, Verdict, judge_faults, judge_outcome

MOST_SHOWN = 20


@dataclass(frozen=True)
class Books:
    """What the daemon counted itself, as it said when it stopped."""

    admitted: int
    completed: int
    failed: int
    cancelled: int
    in_flight: int


@dataclass(frozen=True)
class StormResult:
    """What came of a storm.

    Attributes:
        outcomes: One per request.
        faults: In no order.
        seconds: How long it raged.
        exit_status: The daemon's when it was told to stop; `None` if it did not or was gone before.
        books: The daemon's own, `None` without.
        orphans: Processes that outlived it.
        extra_workers: Processes beyond those of the models and a spare, before it stopped.
        was_cut: It was ended before all faults had happened, because its time was over.
    """

    outcomes: Sequence[Outcome]
    faults: Sequence[Fault]
    seconds: float
    exit_status: int | None
    books: Books | None
    orphans: int
    extra_workers: int
    was_cut: bool = False

    def verdicts(self) -> list[Verdict]:
        """Every request, judged."""
        by_model: dict[str, list[Fault]] = {}
        for fault in self.faults:
            by_model.setdefault(fault.model, []).append(fault)
        return [judge_outcome(o, by_model.get(o.model, [])) for o in self.outcomes]

    def violations(self) -> list[str]:
        """All that should not have happened."""
        found = [verdict.violation for verdict in self.verdicts() if verdict.violation]
        found += judge_faults(self.faults)
        if self.was_cut:
            found.append(f"the storm was cut after {self.seconds:.0f} s")
        if self.exit_status != 0:
            found.append(f"the daemon ended with {self.exit_status}")
        if self.orphans:
            found.append(f"{self.orphans} processes outlived the daemon")
        if self.extra_workers > 0:
            found.append(f"{self.extra_workers} processes too many before the stop")
        return found + self._judge_books()

    def _judge_books(self) -> list[str]:
        books = self.books
        if books is None:
            return ["the daemon left no books"]
        found = []
        if books.in_flight or books.admitted != books.completed + books.failed + books.cancelled:
            found.append(f"the books do not balance: {books}")
        completed = sum(outcome.ending == "completed" for outcome in self.outcomes)
        if completed != books.completed:
            found.append(f"clients saw {completed} answers, the daemon gave {books.completed}")
        return found

    def tables(self) -> str:
        """The numbers for a person."""
        verdicts = self.verdicts()
        return f"{self._totals(verdicts)}\n\n{self._by_kind(verdicts)}\n\n{self._by_model()}"

    def _totals(self, verdicts: Sequence[Verdict]) -> str:
        failed = [v for v in verdicts if v.outcome.ending == "failed"]
        rows = (
            ("faults", len(self.faults)),
            ("seconds", f"{self.seconds:.0f}"),
            ("requests", len(verdicts)),
            ("completed", sum(v.outcome.ending == "completed" for v in verdicts)),
            ("ended with a typed error, their model hit", sum(v.fault is not None for v in failed)),
            ("failed, their model not hit", sum(v.fault is None for v in failed)),
            ("without a terminal word", sum(v.outcome.ending == "broken" for v in verdicts)),
            ("daemon's exit status", self.exit_status),
            ("orphans", self.orphans),
            ("quarantines", sum(f.was_barred and f.is_judged for f in self.faults)),
            ("books", _render(self.books)),
        )
        return _table(("storm", ""), rows)

    def _by_kind(self, verdicts: Sequence[Verdict]) -> str:
        rows = []
        for kind in sorted({fault.kind for fault in self.faults}):
            faults = [fault for fault in self.faults if fault.kind == kind]
            hit = [v for v in verdicts if v.fault is not None and v.fault.kind == kind]
            told = [v.delay_s for v in hit if not v.fault or not v.fault.was_barred]
            back = [f.overhead_s for f in faults if f.model and f.is_judged and not f.was_barred]
            rows.append((kind, len(faults), len(hit), _spread_ms(told), _spread_ms(back)))
        heads = (
            "fault",
            "times",
            "requests hit",
            "told after, p50 / max ms",
            "model back beyond its load, p50 / max ms",
        )
        return _table(heads, rows)

    def _by_model(self) -> str:
        rows = []
        for model in sorted({outcome.model for outcome in self.outcomes}):
            faults = [fault for fault in self.faults if fault.model == model]
            phases = [
                sum(fault.phase == phase for fault in faults)
                for phase in ("idle", "prefill", "decoding", "loading")
            ]
            asked = sum(outcome.model == model for outcome in self.outcomes)
            rows.append((model, asked, *phases, _spread_ms([fault.load_s for fault in faults])))
        heads = ("model", "requests", "hit idle", "in prefill", "decoding", "loading")
        return _table((*heads, "load p50 / max ms"), rows)


def _render(books: Books | None) -> str:
    if books is None:
        return "none"
    return (
        f"{books.admitted} admitted = {books.completed} completed + {books.failed} failed "
        f"+ {books.cancelled} cancelled"
    )


def _spread_ms(seconds: Iterable[float]) -> str:
    values = [1000 * max(0.0, value) for value in seconds]
    return f"{statistics.median(values):.0f} / {max(values):.0f}" if values else "-"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def print_violations(found: Sequence[str]) -> None:
    """Say what was wrong, the first of it in full."""
    for violation in found[:MOST_SHOWN]:
        print(f"VIOLATION: {violation}")
    if len(found) > MOST_SHOWN:
        print(f"... and {len(found) - MOST_SHOWN} more")
