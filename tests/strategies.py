"""What property tests draw from: values of the protocol, JSON, and texts cut anywhere."""

from typing import Any

from hypothesis import strategies as st

from lmx.protocol.messages import (
    Cancel,
    Command,
    Delta,
    Event,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Rejected,
    Shutdown,
    Started,
)
from lmx.protocol.values import Memory, ModelInfo, Sampling, Timings, Usage

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
SECONDS = st.floats(allow_nan=False)
TEXT = st.text(max_size=20)


def json_values(max_leaves: int = 10) -> st.SearchStrategy[Any]:
    """Any value JSON can hold, as Python has it."""
    leaves = (
        st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=max_leaves,
    )


SAMPLING = st.builds(Sampling, COUNT, SECONDS, SECONDS, st.none() | INT64)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT)

COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Load, TEXT, TEXT, COUNT, st.none() | COUNT),
    st.builds(
        Generate,
        COUNT,
        st.lists(st.dictionaries(TEXT, json_values(), max_size=3), max_size=2),
        SAMPLING,
        st.lists(TEXT, max_size=3),
    ),
    st.builds(Cancel, COUNT),
    st.just(Shutdown()),
)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Loaded,
        st.builds(ModelInfo, COUNT, COUNT, COUNT, COUNT, TEXT, TEXT),
        st.builds(Memory, COUNT, COUNT, COUNT),
        st.lists(TEXT, max_size=2),
    ),
    st.builds(LoadFailed, TEXT, TEXT),
    st.builds(Started, COUNT, COUNT),
    st.builds(Rejected, COUNT, TEXT, TEXT, st.none() | TEXT),
    st.builds(Delta, COUNT, TEXT, COUNT),
    st.builds(
        Finished,
        COUNT,
        st.sampled_from(["stop", "length", "cancelled", "error"]),
        USAGE,
        st.builds(Timings, SECONDS, SECONDS, SECONDS),
        st.none() | TEXT,
        st.none() | TEXT,
    ),
)


@st.composite
def cuts_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces, some of which may be empty."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
