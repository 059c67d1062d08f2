"""Models on disk are found by the names that requests give, without looking all the time."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lmx.catalog.inventory import InventoryRow, Scan, Status
from lmx.catalog.scan import Inventory
from lmx.config import ModelSettings, Settings
from lmx.daemon.shelf import FRESH_S, Shelf
from lmx.protocol.values import Purpose
from tests.lifecycle import HOME


class Disk(Inventory):
    """An inventory whose rows the test writes.

    Attributes:
        rows: What is there.
        scans: How often that was looked at.
    """

    def __init__(self, *rows: InventoryRow) -> None:
        super().__init__(HOME)
        self.rows = rows
        self.scans = 0

    def scan(self) -> Scan:
        """What is there now."""
        self.scans += 1
        return Scan(self.rows, ("/gone cannot be read",))


def row(model_id: str, *, status: Status = "complete", purpose: str = "generation") -> InventoryRow:
    """A model on disk."""
    return InventoryRow(
        id=model_id,
        path=Path("/m"),
        format="mlx",
        size_bytes=1,
        modified_at=0.0,
        status=status,
        purpose=purpose,
    )


async def test_a_request_finds_what_it_names() -> None:
    """By the id or a name close to it, in the format that settings prefer."""
    settings = Settings(home=HOME, models=ModelSettings(backend="gguf"))
    shelf = Shelf(settings, Disk(row("org/Qwen3-4B-4bit"), row("org/other")))
    for name in ("org/Qwen3-4B-4bit", "qwen3-4b-4bit", "Qwen3-4B"):
        spec = await shelf.find(name)
        assert spec is not None
        assert ("org/Qwen3-4B-4bit", "id", "gguf") == (spec.id, spec.kind, spec.backend)


@pytest.mark.parametrize("name", ["", "auto", "current", "nowhere", "half", "embed", "/etc/passwd"])
async def test_only_what_is_listed_can_be_meant(name: str) -> None:
    """No model by no name, none that is incomplete or cannot generate, and no path."""
    disk = Disk(row("half", status="incomplete"), row("embed", purpose="embedding"))
    assert None is await Shelf(Settings(home=HOME), disk).find(name, "generation")


@pytest.mark.parametrize("purpose", ["embedding", None])
async def test_a_model_is_meant_for_what_it_is_for(purpose: Purpose | None) -> None:
    """Asked for its own purpose or for any, and it says which that is."""
    disk = Disk(row("embed", purpose="embedding"))
    spec = await Shelf(Settings(home=HOME), disk).find("embed", purpose)
    assert spec is not None
    assert ("embed", "embedding") == (spec.id, spec.purpose)


async def test_a_look_counts_for_a_while(autojump_clock: MockClock) -> None:
    """Many requests look once; later, or when asked to, it looks again."""
    disk = Disk(row("a"))
    shelf = Shelf(Settings(home=HOME), disk)
    assert (row("a"),) == await shelf.rows()
    disk.rows = (row("a"), row("b"))
    assert None is await shelf.find("b")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(shelf.rows)
    assert 1 == disk.scans
    await trio.sleep(FRESH_S)
    assert None is not await shelf.find("b")
    assert 2 == disk.scans
    assert 2 == len(await shelf.rows(is_fresh=True))
    assert 3 == disk.scans


async def test_the_models_that_lmx_brings_go_by_their_words(autojump_clock: MockClock) -> None:
    """Also when nothing but their files is left."""
    shelf = Shelf(Settings(home=HOME), Disk(row("SmolLM2-135M-Instruct"), row("other")))
    found = await shelf.find("demo")
    assert found is not None
    assert "SmolLM2-135M-Instruct" == found.id
    assert await shelf.find("embedder") is None
