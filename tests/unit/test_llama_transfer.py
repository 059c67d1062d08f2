"""State that leaves llama.cpp's cache as bytes and comes back gives the same logits.

Beside `test_llama_library.py` this is the other half of the contract with the pinned version: every
call of `lmx.engines.llama.transfer`, once, with what it must give.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.states import choose_block_tokens  # noqa: E402
from tests.llama_contexts import SPARE, Opened  # noqa: E402
from tests.tiny_gguf import TOKENS, TinyLlama  # noqa: E402
from tests.tiny_state_gguf import WINDOW_TOKENS, write_recurrent, write_windowed  # noqa: E402

IDS = [3 + 7 * i % (len(TOKENS) - 3) for i in range(60)]
Write = Callable[[Path], object]


@pytest.fixture
def open_context(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens contexts and closes them at the end."""
    found: list[Opened] = []

    def make(write: Write, cells: int = 256) -> Opened:
        path = tmp_path / f"{len(found)}.gguf"
        write(path)
        found.append(Opened(path, cells))
        return found[-1]

    yield make
    for opened in found:
        opened.close()


def write_plain(path: Path) -> None:
    """The tiny Llama."""
    TinyLlama().write(path)


def test_ranges_come_back_where_they_were(open_context: Callable[..., Opened]) -> None:
    """In pieces, into another sequence, and without the end of one: the positions are kept."""
    opened = open_context(write_plain)
    expected = opened.decode(0, IDS, 0)
    ranges = [(0, 16), (16, 55)]
    data = [opened.transfer.take_range(0, start, end) for start, end in ranges]
    opened.transfer.drop(0)
    assert 0 == opened.transfer.length(0)
    for one, (start, end) in zip(data, ranges, strict=True):
        assert opened.transfer.put_range(one, 1, start=start, end=min(end, 50))
    assert (0, 50, 0) == (
        opened.transfer.first(1),
        opened.transfer.length(1),
        opened.transfer.length(SPARE),
    )
    assert expected == pytest.approx(opened.decode(1, IDS[50:], 50), abs=1e-3)


def test_there_may_be_no_room(open_context: Callable[..., Opened]) -> None:
    """Nothing has changed then, and once there is room it works."""
    opened = open_context(write_plain)
    opened.decode(0, IDS, 0)
    data = opened.transfer.take_range(0, 0, 60)
    for position in range(60, 240, 60):
        opened.decode(0, IDS, position)
    assert not opened.transfer.put_range(data, 1, start=0, end=60)
    assert (240, 0, 0) == tuple(opened.transfer.length(number) for number in range(3))
    opened.transfer.drop(0)
    assert opened.transfer.put_range(data, 1, start=0, end=60)


def test_foreign_bytes_are_refused(open_context: Callable[..., Opened]) -> None:
    """Bytes cut short, or of another model, leave the sequence as it was."""
    opened, other = open_context(write_plain), open_context(write_recurrent)
    opened.decode(0, IDS, 0)
    other.decode(0, IDS, 0)
    short = opened.transfer.take(0)[:-9].copy()
    assert not opened.transfer.put_range(short, 1, start=0, end=60)
    assert not opened.transfer.put_range(other.transfer.take(0), 1, start=0, end=60)
    assert (60, 0, 0) == tuple(opened.transfer.length(number) for number in range(3))


@pytest.mark.parametrize("write", [write_plain, write_recurrent, write_windowed])
def test_a_whole_state_comes_back(open_context: Callable[..., Opened], write: Write) -> None:
    """Whatever kind it is of, another sequence goes on from it as the first one would have."""
    opened = open_context(write)
    opened.decode(0, IDS[:40], 0)
    data = opened.transfer.take(0)
    expected = opened.decode(0, IDS[40:], 40)
    assert opened.transfer.put(data, 1)
    assert 40 == opened.transfer.length(1)
    assert expected == pytest.approx(opened.decode(1, IDS[40:], 40), abs=1e-3)


def test_windows_decide_how_long_blocks_are(open_context: Callable[..., Opened]) -> None:
    """Bytes of a range lack what is behind the window before its end, so ranges are shorter."""
    opened = open_context(write_windowed)
    assert WINDOW_TOKENS == opened.model.window_tokens
    opened.decode(0, IDS, 0)
    block = choose_block_tokens(WINDOW_TOKENS)
    sizes = [len(opened.transfer.take_range(0, 0, end)) for end in (block - 1, block, 60)]
    per_token = sizes[1] - sizes[0]
    assert per_token * (60 - block) > sizes[2] - sizes[1]
    data = opened.transfer.take_range(0, 0, 60)
    assert opened.transfer.put_range(data, 1, start=0, end=60)
    assert 0 < opened.transfer.first(1)
    assert 0 == opened.transfer.first(0)


def test_taking_state_changes_nothing(open_context: Callable[..., Opened]) -> None:
    """The bytes are the same the second time, and the sequence goes on."""
    opened = open_context(write_plain)
    opened.decode(0, IDS[:40], 0)
    first, second = (opened.transfer.take_range(0, 10, 30) for _ in range(2))
    assert np.array_equal(first, second)
    assert 40 == opened.transfer.length(0)
