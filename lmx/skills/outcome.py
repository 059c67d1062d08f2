"""What comes of calling a skill: a value, never an exception.

A refusal is an outcome too, because models and clients are told of it in the same place as of an
answer.
"""

from typing import Any, Literal

from msgspec import Struct

# How a call ended, as the audit log, events and metrics say it.
Ending = Literal[
    "ok", "failed", "timed_out", "denied", "requires_approval", "invalid_arguments", "cancelled"
]


class Outcome(Struct, frozen=True, kw_only=True):
    """How one call ended.

    Attributes:
        ok: Whether there is an output.
        output: What the skill answered: any JSON value.
        error: One sentence on why there is none.
        duration_ms: From the call to its end, waiting for a place included.
        timed_out: It was ended for taking too long.
        denied: It was not run: refused by a limit, by its permissions or by a decision.
        requires_approval: It was not run: it needs a decision first.
    """

    ok: bool
    output: Any = None
    error: str | None = None
    duration_ms: float = 0.0
    timed_out: bool = False
    denied: bool = False
    requires_approval: bool = False
