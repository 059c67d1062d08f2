"""What property tests draw from: values of the protocol, JSON, and texts cut anywhere."""

from typing import Any

from hypothesis import strategies as st

from lmx.protocol.messages import (
    Cancel,
    ChatPrompt,
    Command,
    Delta,
    Event,
    Finished,
    Generate,
    Inspect,
    Inspected,
    Load,
    Loaded,
    LoadFailed,
    Prompt,
    Rejected,
    Shutdown,
    Started,
    TextPrompt,
    TokenPrompt,
)
from lmx.protocol.values import (
    GgufOptions,
    Grammar,
    Memory,
    ModelInfo,
    Sampling,
    Timings,
    TokenLogprob,
    Usage,
)

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


JSON_OBJECTS = st.lists(st.dictionaries(TEXT, json_values(), max_size=3), max_size=2)
SAMPLING = st.builds(
    Sampling,
    COUNT,
    SECONDS,
    SECONDS,
    st.none() | INT64,
    COUNT,
    SECONDS,
    SECONDS,
    SECONDS,
    SECONDS,
    st.dictionaries(COUNT, SECONDS, max_size=2),
    COUNT,
    st.booleans(),
    st.none() | COUNT,
)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT)
GRAMMAR = st.builds(Grammar, st.sampled_from(["json_schema", "regex", "lark"]), TEXT, TEXT)
PROMPTS: st.SearchStrategy[Prompt] = st.one_of(
    st.builds(
        ChatPrompt,
        JSON_OBJECTS,
        JSON_OBJECTS,
        st.dictionaries(TEXT, json_values(), max_size=2),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(TextPrompt, TEXT, st.booleans()),
    st.builds(TokenPrompt, st.lists(COUNT, max_size=4)),
)
ALTERNATIVES = st.lists(st.builds(TokenLogprob, TEXT, st.binary(max_size=4), SECONDS), max_size=2)
LOGPROBS = st.lists(
    st.builds(TokenLogprob, TEXT, st.binary(max_size=4), st.none() | SECONDS, ALTERNATIVES),
    max_size=2,
)

GGUF_OPTIONS = st.builds(GgufOptions, INT64, st.none() | COUNT, st.booleans(), st.none() | COUNT)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Load, TEXT, TEXT, COUNT, st.none() | COUNT, TEXT, GGUF_OPTIONS),
    st.builds(
        Generate,
        COUNT,
        PROMPTS,
        st.lists(SAMPLING, max_size=2),
        st.lists(TEXT, max_size=3),
        st.none() | GRAMMAR,
        st.none() | COUNT,
        st.booleans(),
    ),
    st.builds(Cancel, COUNT),
    st.just(Shutdown()),
    st.builds(Inspect, COUNT, PROMPTS),
)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Loaded,
        st.builds(ModelInfo, COUNT, COUNT, COUNT, COUNT, TEXT, TEXT),
        st.builds(Memory, COUNT, COUNT, COUNT),
        st.lists(TEXT, max_size=2),
    ),
    st.builds(LoadFailed, TEXT, TEXT),
    st.builds(Started, COUNT, COUNT, TEXT, TEXT, st.booleans(), st.none() | TEXT),
    st.builds(Rejected, COUNT, TEXT, TEXT, st.none() | TEXT),
    st.builds(Delta, COUNT, TEXT, COUNT, LOGPROBS, LOGPROBS),
    st.builds(
        Finished,
        COUNT,
        st.sampled_from(["stop", "length", "cancelled", "error"]),
        USAGE,
        st.builds(Timings, SECONDS, SECONDS, SECONDS),
        st.none() | TEXT,
        st.none() | TEXT,
    ),
    st.builds(Inspected, COUNT, TEXT, st.lists(COUNT, max_size=3), st.lists(TEXT, max_size=3)),
)


@st.composite
def cuts_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces, some of which may be empty."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
