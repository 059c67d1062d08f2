"""What a model would like to keep of prompts, beside what it cannot do without."""

from pathlib import Path
from typing import Any

import pytest

from lmx.catalog.specs import ModelSpec
from lmx.config import GgufSettings, MemorySettings, ModelSettings, Settings
from lmx.daemon.estimates import PREFIX_CACHE_BYTES, Estimates, load_command
from lmx.daemon.ledger import Demand
from lmx.daemon.model import Model
from lmx.daemon.sources import Source
from lmx.protocol.values import PrefixDisk
from tests.tiny_models import build_tiny_llama

GB = 10**9


async def demand_of(
    source: Source, *, gigabytes: float | None = None, budget_bytes: int = 100 * GB
) -> Demand:
    """What a plan asks for."""
    settings = Settings(home=Path("/nowhere"), memory=MemorySettings(prefix_cache_gb=gigabytes))
    estimates = Estimates(settings, budget_bytes=budget_bytes)
    plan = await estimates.plan(source, Model(ModelSpec("m", source.engine, source.path)))
    assert 0 == plan.command.prefix_cache_bytes  # what is granted is known only when it loads
    return plan.demand


@pytest.fixture(scope="module")
def mlx(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A model on MLX; its directory is only read."""
    return Source("mlx", str(build_tiny_llama(tmp_path_factory.mktemp("tiny"))))


@pytest.mark.parametrize(
    ("gigabytes", "expected"), [(None, PREFIX_CACHE_BYTES), (0, 0), (1.5, 1_500_000_000)]
)
async def test_the_wish_is_the_settings(
    mlx: Source, gigabytes: float | None, expected: int
) -> None:
    """Nothing, what is asked for, or a limit by policy."""
    assert expected == (await demand_of(mlx, gigabytes=gigabytes)).prefix_cache


async def test_half_of_a_small_budgets_rest(mlx: Source) -> None:
    """Other models are to find room, too."""
    demand = await demand_of(mlx, budget_bytes=4 * GB)
    assert (4 * GB - demand.total) // 2 == demand.prefix_cache
    assert 0 == (await demand_of(mlx, budget_bytes=demand.total)).prefix_cache


@pytest.mark.parametrize(("gigabytes", "cap_bytes"), [(10.0, 10 * GB), (0.0, None)])
async def test_the_disk_has_a_cap_or_is_off(
    mlx: Source, gigabytes: float, cap_bytes: int | None
) -> None:
    """All models share one directory below the home."""
    memory = MemorySettings(prefix_disk_gb=gigabytes)
    settings = Settings(home=Path("/home"), memory=memory)
    estimates = Estimates(settings, budget_bytes=100 * GB)
    plan = await estimates.plan(mlx, Model(ModelSpec("m", "mlx", mlx.path)))
    expected = None if cap_bytes is None else PrefixDisk("/home/cache/prefix", cap_bytes)
    assert expected == plan.command.prefix_disk


async def test_who_keeps_nothing_wishes_for_nothing() -> None:
    """Engines that keep prefixes within their own cache, or not at all."""
    assert 0 == (await demand_of(Source("fake", "tokens=3"))).prefix_cache


@pytest.mark.parametrize(
    ("kv_bits", "source", "expected"),
    [
        ({}, Source("mlx", "m"), None),
        ({"m": 8}, Source("mlx", "m"), 8),
        ({"*": 8}, Source("mlx", "m"), 8),
        ({"*": 8, "m": 16}, Source("mlx", "m"), None),
        ({"*": 8}, Source("mlx", "m", purpose="embedding"), None),
        ({"m": 8}, Source("mlx", "m", purpose="embedding"), 8),
    ],
)
def test_bits_for_every_model(kv_bits: dict[str, Any], source: Source, expected: Any) -> None:
    """A star is every model that keeps a cache and has no entry; an entry is that model always."""
    settings = Settings(home=Path("/home"), models=ModelSettings(kv_bits=kv_bits))
    assert expected == load_command(settings, "m", source).kv_bits


def test_gguf_models_may_have_a_context_of_their_own() -> None:
    """Their bound goes before that of all models, which the others keep."""
    settings = Settings(
        home=Path("/home"),
        models=ModelSettings(context_tokens=4000),
        gguf=GgufSettings(context_tokens=2000),
    )
    assert 2000 == load_command(settings, "m", Source("llama", "m")).context_tokens
    assert 4000 == load_command(settings, "m", Source("mlx", "m")).context_tokens
