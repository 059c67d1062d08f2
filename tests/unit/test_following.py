"""What keeps more than the settings themselves follows them, too, when they change."""

from pathlib import Path

import pytest
from msgspec.structs import force_setattr

from lmx.catalog.inventory import InventoryRow, Scan
from lmx.catalog.scan import Inventory
from lmx.config import MemorySettings, ModelSettings, Settings
from lmx.daemon.following import Follower
from lmx.daemon.model import LoadOptions
from lmx.daemon.shelf import Shelf
from lmx.errors import QueueFull
from tests.lifecycle import HOME, open_house
from tests.model_folders import make_mlx


async def test_pins_follow() -> None:
    """Names that come and go; a model that was pinned otherwise stays pinned."""
    settings = Settings(home=HOME, models=ModelSettings(pinned=("a",)))
    async with open_house({"a": 1, "b": 1, "c": 1}, settings=settings) as (house, _):
        await house.load("a", "b")
        await house.load("c", options=LoadOptions(is_pinned=True))
        follower = Follower(settings, house.loader)
        for pinned, expected in ((("b", "x"), {"b", "c"}), ((), {"c"}), (("a",), {"a", "c"})):
            force_setattr(settings, "models", ModelSettings(pinned=pinned))
            follower.follow()
            models = house.loader.models.values()
            assert expected == {model.id for model in models if model.options.is_pinned}


async def test_memory_follows() -> None:
    """A smaller budget takes nothing from who is there; the next load has to fit into it."""
    settings = Settings(home=HOME)
    async with open_house({"a": 400, "b": 400}, settings=settings) as (house, _):
        await house.load("a")
        follower, ledger = Follower(settings, house.loader), house.loader.room.ledger
        follower.follow()
        assert 1000 == ledger.budget  # nothing was said of it
        force_setattr(
            settings,
            "memory",
            MemorySettings(budget_gb=6e-7, critical_percent=50, warning_percent=40),
        )
        follower.follow()
        assert (300, 100) == (ledger.budget, ledger.overdrawn)
        assert {"a": "ready"} == house.states()


async def test_queues_and_residency_follow() -> None:
    """From the next request and the next load on."""
    settings = Settings(home=HOME)
    async with open_house({"a": 1}, settings=settings) as (house, _):
        await house.load("a")
        ready = house.loader.models["a"].ready
        assert ready is not None
        ready.admission.enter(400)
        force_setattr(settings, "models", ModelSettings(max_waiting=10, min_residency_s=7))
        Follower(settings, house.loader).follow()
        assert 7 == house.loader.room.min_residency_s
        with pytest.raises(QueueFull):
            ready.admission.enter(1)


class Empty(Inventory):
    """Nothing on disk."""

    def scan(self) -> Scan:
        """Nothing."""
        return Scan((), ())


async def test_folders_follow(tmp_path: Path) -> None:
    """Models in a new folder are found by the next look, however short ago the last one was."""
    settings = Settings(home=tmp_path / "home")
    shelf = Shelf(settings, Empty(HOME))
    assert () == await shelf.rows()
    model = make_mlx(tmp_path / "more" / "tiny")
    force_setattr(settings, "models", ModelSettings(folders=(str(tmp_path / "more"),)))
    rows: list[InventoryRow] = list(await shelf.rows())
    assert str(model) in {str(row.path) for row in rows}
