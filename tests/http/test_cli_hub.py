"""Models from a hub to their end, by commands alone: pulled, shown, quantised, loaded, deleted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli_fakes import FakeDaemon, Outcome, run_lmx
from tests.http.shared import shared_daemon
from tests.hub_server import LoopbackHub, mlx_files, open_hub
from tests.tiny_models import build_tiny_llama


class House(NamedTuple):
    """A daemon's address, its home, and the hub it knows."""

    daemon: FakeDaemon
    home: Path
    hub: LoopbackHub

    def lmx(self, *arguments: str) -> Outcome:
        """Run a command."""
        return run_lmx(*arguments, home=self.home, daemon=self.daemon)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A real daemon, for which the fake one has nothing but its address."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hf")}
    with (
        open_hub() as hub,
        shared_daemon(home, "fake:x", settings={**own, **hub.environment}) as daemon,
    ):
        yield House(FakeDaemon(daemon.url), home, hub)


def test_a_model_comes_from_the_hub_and_goes(house: House, tmp_path: Path) -> None:
    """Each command sees what the one before it did."""
    house.hub.add("org/tiny", build_tiny_llama(tmp_path / "tiny"))
    pulled = house.lmx("pull", "org/tiny")
    assert (0, True) == (pulled.status, pulled.out.startswith("org/tiny is there, ")), pulled
    listed = house.lmx("downloads", "--all", "--json").document["downloads"]
    assert [("org/tiny", "completed")] == [(row["repo_id"], row["status"]) for row in listed]
    assert "llama" == house.lmx("show", "org/tiny", "--json").document["architecture"]
    quantised = house.lmx("quantize", "org/tiny", "--bits", "8", "--group-size", "32", "--json")
    assert 0 == quantised.status, quantised.err
    last = json.loads(quantised.out.splitlines()[-1])
    assert ("completed", 8) == (last["status"], last["bits"])
    assert {"org/tiny", last["model_id"]} <= paths(house)
    assert 0 == house.lmx("load", "org/tiny").status
    assert 0 == house.lmx("chat", "-m", "org/tiny", "hi").status
    loaded = house.lmx("rm", "org/tiny", "--yes")
    assert (1, True) == (loaded.status, "unload it before" in loaded.err)
    assert 0 == house.lmx("unload", "org/tiny").status
    assert 0 == house.lmx("rm", "org/tiny", "--yes").status
    assert "org/tiny" not in paths(house)


def paths(house: House) -> set[str]:
    """Ids of the models on disk."""
    return {row["path"] for row in house.lmx("list", "--json").document["models"]}


def test_a_load_fetches_what_is_missing(house: House, tmp_path: Path) -> None:
    """With consent: one command from nothing to a model that answers."""
    house.hub.add("org/small", build_tiny_llama(tmp_path / "small"))
    outcome = house.lmx("load", "org/small", "--yes")
    assert (0, True) == (outcome.status, outcome.out.startswith("org/small answers: ")), outcome
    assert 0 == house.lmx("unload", "org/small").status


def test_what_the_hub_lacks_is_not_found(house: House) -> None:
    """A status that says so."""
    outcome = house.lmx("pull", "org/nothing")
    assert 0 != outcome.status
    assert "org/nothing" in outcome.err


def test_a_damaged_download_fails_with_the_reason(house: House) -> None:
    """The digest does not fit, and the command says so."""
    house.hub.add("org/damaged", mlx_files())
    house.hub.faults.garbled = {"model.safetensors"}
    outcome = house.lmx("pull", "org/damaged")
    assert (1, True) == (outcome.status, "org/damaged failed: " in outcome.err), outcome
