"""Whether a storm did what it was allowed to do and nothing else. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.storm.clients import Outcome
from scripts.storm.faults import Kind
from scripts.storm.plan import Phase

CRASH_LIMIT_S = 1.0
RECOVERY_SLACK_S = 1.0
# What a request may be told whose worker crashed or hung, or whose model is barred meanwhile.
HIT_CODES = frozenset({"worker-broken", "worker-stalled"})
BARRED_CODES = frozenset({"model_unstable"})


@dataclass
class Fault:
    """A fault as it happened. Times are seconds of the epoch.

    Attributes:
        model: Whose worker; empty for one that hit none.
        kind: What was done.
        phase: What the worker did just then.
        pid: The worker that was struck.
        at_s: When.
        silence_s: How long it may take until anybody can know: the stall limit for a hang.
        recovered_s: When the model was up again, 0 before.
        load_s: How long the load took that brought it back.
        is_judged: Whether its recovery counts: nothing else hit the model before it was back.
        was_barred: It ended in quarantine.
        detail: What went wrong in handling it, empty for nothing.
    """

    model: str
    kind: Kind
    phase: Phase
    pid: int
    at_s: float
    silence_s: float = 0.0
    recovered_s: float = 0.0
    load_s: float = 0.0
    is_judged: bool = True
    was_barred: bool = False
    detail: str = ""

    @property
    def overhead_s(self) -> float:
        """Time the model was away beyond the silence and the load itself."""
        return self.recovered_s - self.at_s - self.silence_s - self.load_s


@dataclass(frozen=True)
class Verdict:
    """One request, judged.

    Attributes:
        outcome: It.
        fault: What hit it, if anything.
        delay_s: From the fault, or the request if that was later, to its last byte.
        violation: What was wrong, empty for nothing.
    """

    outcome: Outcome
    fault: Fault | None = None
    delay_s: float = 0.0
    violation: str = ""


def judge_outcome(outcome: Outcome, faults: Iterable[Fault]) -> Verdict:
    """Whether a request was allowed to end as it did.

    Args:
        outcome: How it ended.
        faults: Those of its model.
    """
    if outcome.ending == "completed":
        return Verdict(outcome)
    who = f"{outcome.model}, status {outcome.status}"
    if outcome.ending == "broken":
        return Verdict(outcome, violation=f"{who}: no terminal word: {outcome.detail}")
    hits = [f for f in faults if f.at_s <= outcome.ended_s and ended_s(f) >= outcome.began_s]
    if not hits:
        return Verdict(outcome, violation=f"{who}: not hit, but {outcome.code}: {outcome.detail}")
    if outcome.code in BARRED_CODES and any(fault.was_barred for fault in hits):
        return Verdict(outcome, hits[-1])
    if outcome.code not in HIT_CODES:
        return Verdict(outcome, hits[-1], violation=f"{who}: {outcome.code}: {outcome.detail}")
    delays = [(outcome.ended_s - max(f.at_s, outcome.began_s) - f.silence_s, f) for f in hits]
    delay_s, fault = min(delays, key=lambda pair: pair[0])
    late = f"{who}: told {delay_s:.2f} s late of {fault.kind}, {fault.phase}"
    return Verdict(outcome, fault, max(0.0, delay_s), late if delay_s > CRASH_LIMIT_S else "")


def ended_s(fault: Fault) -> float:
    """When a fault was over."""
    return fault.recovered_s or math.inf


def judge_faults(faults: Sequence[Fault]) -> list[str]:
    """Faults that were not recovered from as promised."""
    found = [f"{f.model} {f.kind}, {f.phase}: {f.detail}" for f in faults if f.detail]
    for fault in faults:
        if not fault.model:
            continue
        if not fault.recovered_s:
            found.append(f"{fault.model} never came back after {fault.kind}, {fault.phase}")
        elif fault.is_judged and not fault.was_barred and fault.overhead_s > RECOVERY_SLACK_S:
            found.append(
                f"{fault.model} came back {fault.overhead_s:.2f} s after its load could have, "
                f"{fault.kind}, {fault.phase}"
            )
    return found
