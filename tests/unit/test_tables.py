"""Counters by name: bounded whatever names come, and nothing counted is ever lost."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.clients import ClientCounts
from lmx.daemon.measures import ModelMeasures
from lmx.daemon.tables import OTHERS, FoldingTable

LIMIT = 3


def client_table() -> FoldingTable[ClientCounts]:
    """A small one."""
    return FoldingTable(ClientCounts, limit=LIMIT)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40))
def test_sums_survive_any_names(names: list[str]) -> None:
    """However many names come, the table stays small and its sums are of all of them."""
    table = client_table()
    for name in names:
        table.of(name).requests += 1
    assert len(names) == sum(counts.requests for counts in table.values())
    assert len(table.items()) <= LIMIT + 1


def test_the_longest_unused_goes_first() -> None:
    """Asking for a name makes it the last used; the first unused is folded."""
    table = client_table()
    for name in ("a", "b", "c", "a", "d"):
        table.of(name).requests += 1
    assert {"a": 2, "c": 1, "d": 1, OTHERS: 1} == {
        name: counts.requests for name, counts in table.items()
    }


def test_what_is_in_use_is_not_folded() -> None:
    """Counters that somebody holds stay; with nothing to fold the table grows instead."""
    table = FoldingTable(ModelMeasures, limit=2)
    held = [table.of(name) for name in ("a", "b")]
    for measures in held:
        measures.open_count = 1
    table.of("c")
    assert ["a", "b", "c"] == list(dict(table.items()))
    table.of("d").outcomes["stop"] += 1
    assert ["a", "b", OTHERS, "d"] == list(dict(table.items()))


def test_a_client_may_call_itself_like_the_others() -> None:
    """The entry for all others is one, whoever asks for it by name."""
    table = client_table()
    for name in (OTHERS, "a", "b", "c", "d"):
        table.of(name).requests += 1
    assert 2 == table.of(OTHERS).requests
    assert 5 == sum(counts.requests for counts in table.values())
