"""The life of one model, as a table. Pure: no tasks, no clocks, no processes.

    Absent ──load──► Loading ──loaded──► Ready ──drain──► Draining ──gone──► Absent
                       │  ▲                │ died             │ died
                       │  └────load────┐   ▼                  ▼
                       └──load_failed──► Failed             Absent
                                           │ quarantine
                                           ▼
                                       Quarantined ──load──► Loading

`Failed` is where a model waits for its next attempt, or for a person when the failure is one that
trying again cannot mend; `Quarantined` is where it waits for a person because it failed too often
in a row. From any state `gone` leads back to `Absent`. Every transition that is not
in the table is a programming error: it raises and changes nothing.
"""

from enum import Enum


class ModelState(Enum):
    """Where a model is in its life; the values are what the admin API shows."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class ModelEvent(Enum):
    """What happens to a model."""

    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load_failed"
    DIED = "died"
    DRAIN = "drain"
    GONE = "gone"
    QUARANTINE = "quarantine"


TRANSITIONS: dict[ModelState, dict[ModelEvent, ModelState]] = {
    ModelState.ABSENT: {
        ModelEvent.LOAD: ModelState.LOADING,
        ModelEvent.GONE: ModelState.ABSENT,
    },
    ModelState.LOADING: {
        ModelEvent.LOADED: ModelState.READY,
        ModelEvent.LOAD_FAILED: ModelState.FAILED,
        ModelEvent.GONE: ModelState.ABSENT,
    },
    ModelState.READY: {
        ModelEvent.DIED: ModelState.FAILED,
        ModelEvent.DRAIN: ModelState.DRAINING,
        ModelEvent.GONE: ModelState.ABSENT,
    },
    ModelState.DRAINING: {
        ModelEvent.DIED: ModelState.ABSENT,
        ModelEvent.GONE: ModelState.ABSENT,
    },
    ModelState.FAILED: {
        ModelEvent.LOAD: ModelState.LOADING,
        ModelEvent.GONE: ModelState.ABSENT,
        ModelEvent.QUARANTINE: ModelState.QUARANTINED,
    },
    ModelState.QUARANTINED: {
        ModelEvent.LOAD: ModelState.LOADING,
        ModelEvent.GONE: ModelState.ABSENT,
    },
}


class IllegalTransition(Exception):
    """An event that the state does not know; a bug in the caller."""


def next_state(state: ModelState, event: ModelEvent) -> ModelState:
    """Where `event` leads from `state`.

    Raises:
        IllegalTransition: The table has no such transition.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event.value} in state {state.value}") from None
