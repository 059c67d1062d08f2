"""What is kept of a slot is whole, and what is put back is, or nothing is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.keeper import StateKeeper  # noqa: E402
from lmx.engines.llama.slots import Slot  # noqa: E402
from lmx.engines.llama.states import Block, LlamaStore, StateSegment  # noqa: E402
from lmx.engines.prefix.tree import make_key  # noqa: E402
from tests.llama_contexts import Opened  # noqa: E402
from tests.tiny_gguf import TOKENS  # noqa: E402
from tests.tiny_state_gguf import WINDOW_TOKENS, write_windowed  # noqa: E402

IDS = [3 + 7 * i % (len(TOKENS) - 3) for i in range(150)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """256 cells of a model with a sliding window."""
    context = Opened(write_windowed(tmp_path / "tiny.gguf"))
    yield context
    context.close()


def fill(opened: Opened, slot: Slot, ids: list[int]) -> None:
    """Compute tokens in an empty slot."""
    for start in range(0, len(ids), 64):
        opened.decode(slot.number, ids[start : start + 64], start)
    slot.refill("", ids)


def make_keeper(opened: Opened, store: LlamaStore) -> StateKeeper:
    """For a model with a window."""
    return StateKeeper(opened.transfer, store, window_tokens=WINDOW_TOKENS)


def never() -> bool:
    """There is no room to be made."""
    return False


def test_a_window_with_gaps_is_not_kept(opened: Opened) -> None:
    """Where another slot took cells behind the window, what is left is of no use to a prefix."""
    store = LlamaStore(1 << 20)
    keeper = make_keeper(opened, store)
    first, second = Slot(0), Slot(1)
    fill(opened, second, IDS[:100])
    fill(opened, first, IDS)
    opened.transfer.drop(second.number)
    fill(opened, second, IDS[:64])
    opened.decode(second.number, IDS[64:104], 64)
    assert 0 < opened.transfer.first(first.number) < len(IDS) - WINDOW_TOKENS
    keeper.save(first, len(IDS))
    assert 0 == store.state.entry_count
    second.refill("", IDS[:104])
    keeper.save(second, len(IDS))
    assert 0 < store.state.entry_count


def test_what_is_not_whole_is_not_gone_on_from(opened: Opened) -> None:
    """A block that lacks its first tokens in some layers, cut there, leaves the slot empty."""
    store = LlamaStore(1 << 20)
    keeper = make_keeper(opened, store)
    slot = Slot(0)
    fill(opened, slot, IDS[:64])
    long = Block(0, 64, opened.transfer.take_range(0, 0, 64))
    opened.transfer.drop(0)
    slot.refill("")
    store.keep(make_key(IDS[:64]), "", segment=StateSegment(0, 64, (long,)))
    keeper.restore(slot, make_key([*IDS[:30], 5, 5, 5]), never)
    assert [] == slot.resident
    assert 0 == opened.transfer.length(0)
    keeper.restore(slot, make_key([*IDS[:64], 5]), never)
    assert IDS[:64] == slot.resident


def test_without_room_there_is_as_much_as_fits(opened: Opened) -> None:
    """Blocks that find no cells are left out, and what came before them is of use."""
    store = LlamaStore(1 << 20)
    keeper = make_keeper(opened, store)
    slot, other = Slot(0), Slot(1)
    fill(opened, slot, IDS)
    keeper.save(slot, len(IDS))
    opened.transfer.drop(0)
    slot.refill("")
    fill(opened, other, IDS)
    keeper.restore(slot, make_key([*IDS, 5]), never)
    assert 0 < len(slot.resident) <= 256 - len(IDS)
    assert len(slot.resident) == opened.transfer.length(0)
    assert IDS[: len(slot.resident)] == slot.resident


def test_so_much_is_copied_and_no_more(opened: Opened) -> None:
    """A slot that has to go while others wait keeps its beginning."""
    store = LlamaStore(1 << 24)
    keeper = make_keeper(opened, store)
    slot = Slot(0)
    fill(opened, slot, IDS)
    keeper.save_more(slot, 128)
    assert 128 == slot.saved_tokens
    assert 128 == store.usable_tokens(make_key([*IDS, 5]), "")
    keeper.save(slot, 0)
    assert 128 == store.usable_tokens(make_key([*IDS, 5]), "")
    keeper.save(slot, len(IDS))
    assert 150 == store.usable_tokens(make_key([*IDS, 5]), "")
