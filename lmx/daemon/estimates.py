"""What a model is going to need, from its files, before a worker is told to load it.

An estimate is made once per load, in a thread, and corrected by what the worker measured the last
time the same files were loaded.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

import msgspec
import trio
from msgspec import Struct

from lmx.catalog.gguf_files import read_model
from lmx.catalog.kv_cache import CacheChoice
from lmx.catalog.memory_plan import (
    VECTOR_BATCH_TOKENS,
    MemoryPlan,
    plan_gguf,
    plan_gguf_vectors,
    plan_mlx,
    plan_vectors,
)
from lmx.catalog.mlx_files import read_mlx
from lmx.config import EVERY_MODEL, GgufSettings, ModelSettings, Settings
from lmx.daemon.drafts import find_draft
from lmx.daemon.ledger import Demand
from lmx.daemon.model import Model
from lmx.daemon.sources import Source
from lmx.protocol.messages import Load, Loaded
from lmx.protocol.values import GgufOptions, PrefixDisk

# A model that fits with less cache than this is refused rather than served to nobody's use.
LEAST_CONTEXT_TOKENS = 4096
# What a model keeps of prompts unless somebody says otherwise: a limit by policy, because a cache
# that grows with the machine is noticed only when it is in somebody's way. A token of an 8B model
# takes 128 KiB, so that this is some 60,000 tokens of it.
PREFIX_CACHE_BYTES = 8 * 10**9
# Engines that keep prompts outside of the memory that is reserved for running requests.
KEEPERS = frozenset({"mlx", "llama"})
# What `models.kv_bits` calls the engine's own type.
FLOAT_BITS = 16
NVIDIA_DEVICE = Path("/dev/nvidia0")


# From what the cache may take, `None` for the engine's choice, to the plan.
MakePlan = Callable[[int | None], MemoryPlan]


class LoadPlan(Struct, frozen=True):
    """A load on its way to a worker: what it may take, and what the worker is told."""

    demand: Demand
    command: Load


class Estimates:
    """Plans loads.

    Args:
        settings: Limits of sequences, context and cache.
        budget_bytes: What all models together may take.
    """

    def __init__(self, settings: Settings, *, budget_bytes: int) -> None:
        self._settings = settings
        self._budget_bytes = budget_bytes
        self._measured: dict[Source, int] = {}

    def set_budget(self, budget_bytes: int) -> None:
        """Change what all models together may take, for the loads to come."""
        self._budget_bytes = budget_bytes

    async def plan(self, source: Source, model: Model) -> LoadPlan:
        """What a load needs, and the command that keeps to it.

        Raises:
            CorruptModel: The files that the estimate needs cannot be read.
        """
        asked = model.options.context_tokens or _context_limit(self._settings, source)
        bits = _kv_bits(self._settings.models, model.id, source)
        plan, cache_bytes = await trio.to_thread.run_sync(self._estimate, source, asked, bits)
        find = partial(find_draft, self._settings, model.id, source, device=guess_device())
        draft = await trio.to_thread.run_sync(find)
        demand = Demand(
            weights=plan.weights + draft.size_bytes,
            kv_cache=plan.kv_cache,
            transient=plan.transient,
        )
        wish = self._wish(source, demand)
        demand = msgspec.structs.replace(demand, prefix_cache=wish)
        # llama.cpp shortens a context by itself, and says so.
        context_tokens = asked if source.engine == "llama" else plan.context_tokens or asked
        command = load_command(
            self._settings,
            model.id,
            source,
            context_tokens=context_tokens,
            cache_bytes=cache_bytes if source.engine == "llama" else plan.kv_cache or None,
        )
        command = msgspec.structs.replace(command, draft=draft.path, prefix_disk=self._disk(wish))
        return LoadPlan(demand, command)

    async def preview(self, source: Source, model_id: str) -> MemoryPlan:
        """What a load would need by the files and the settings alone; nothing is reserved.

        Raises:
            CorruptModel: The files that the estimate needs cannot be read.
        """
        asked = _context_limit(self._settings, source)
        bits = _kv_bits(self._settings.models, model_id, source)
        plan, _ = await trio.to_thread.run_sync(self._estimate, source, asked, bits)
        return plan

    def _disk(self, wish: int) -> PrefixDisk | None:
        """Where a model with such a wish keeps prompts beyond its life."""
        cap_bytes = round(self._settings.memory.prefix_disk_gb * 1e9)
        if not wish or not cap_bytes:
            return None
        return PrefixDisk(str(self._settings.home / "cache" / "prefix"), cap_bytes)

    def _wish(self, source: Source, demand: Demand) -> int:
        """What a model would like to keep of prompts."""
        if source.engine not in KEEPERS or source.purpose != "generation":
            return 0
        asked = self._settings.memory.prefix_cache_gb
        if asked is not None:
            return round(asked * 1e9)
        return min(PREFIX_CACHE_BYTES, max(0, self._budget_bytes - demand.total) // 2)

    def learn(self, source: Source, loaded: Loaded) -> None:
        """What the weights really took; the next load of these files reserves that."""
        self._measured[source] = loaded.info.weight_bytes

    def _estimate(
        self, source: Source, asked: int | None, kv_bits: int | None
    ) -> tuple[MemoryPlan, int | None]:
        """The plan, and the cache it was made for if that was not the engine's own choice."""
        if source.engine == "fake":
            weights = int(parse_qs(source.path).get("weight_bytes", ["0"])[0])
            return MemoryPlan(weights, 0, 0, 0, 0), None
        read = self._read_gguf if source.engine == "llama" else self._read_mlx
        make = read(source, asked, kv_bits)
        cache_bytes = kv_cache_bytes(self._settings.gguf) if source.engine == "llama" else None
        plan = make(cache_bytes)
        weights = self._measured.get(source, plan.weights)
        rest = self._budget_bytes - weights - plan.transient
        per_token = plan.kv_bytes_per_token
        if not per_token:  # nothing that a shorter context would save
            return msgspec.structs.replace(plan, weights=weights), cache_bytes
        if min(LEAST_CONTEXT_TOKENS, plan.context_tokens) * per_token <= rest < plan.kv_cache:
            # The model fits, but not with all the cache it would like.
            cache_bytes = rest
            context_tokens = min(plan.context_tokens, rest // per_token)
            plan = msgspec.structs.replace(make(cache_bytes), context_tokens=context_tokens)
        return msgspec.structs.replace(plan, weights=weights), cache_bytes

    def _read_gguf(self, source: Source, asked: int | None, kv_bits: int | None) -> MakePlan:
        gguf = read_model(Path(source.path))
        facts = (gguf.header, gguf.size_bytes)
        if source.purpose != "generation":
            return lambda cache_bytes: plan_gguf_vectors(
                *facts, context_tokens=asked, kv_cache_bytes=cache_bytes
            )
        sequences = self._settings.models.max_sequences
        return lambda cache_bytes: plan_gguf(
            *facts,
            context_tokens=asked,
            max_sequences=sequences,
            cache=CacheChoice(cache_bytes, kv_bits),
        )

    def _read_mlx(self, source: Source, asked: int | None, kv_bits: int | None) -> MakePlan:
        files, device = read_mlx(Path(source.path)), guess_device()
        if source.purpose != "generation":
            plan = plan_vectors(
                files.config,
                files.weight_bytes,
                batch_tokens=VECTOR_BATCH_TOKENS[device],
                device=device,
            )
            return lambda _: plan
        return lambda cache_bytes: plan_mlx(
            files.config,
            files.weight_bytes,
            context_tokens=asked,
            max_sequences=self._settings.models.max_sequences,
            device=device,
            cache=CacheChoice(cache_bytes, kv_bits),
        )


def guess_device() -> Literal["cpu", "gpu"]:
    """Where MLX will compute, without asking MLX."""
    return "gpu" if sys.platform == "darwin" or NVIDIA_DEVICE.exists() else "cpu"


def load_command(
    settings: Settings,
    model_id: str,
    source: Source,
    *,
    context_tokens: int | None = None,
    cache_bytes: int | None = None,
) -> Load:
    """What a worker is told: the source and the limits that hold for this model."""
    limits, gguf = settings.models, settings.gguf
    return Load(
        source.engine,
        source.path,
        limits.max_sequences,
        context_tokens or _context_limit(settings, source),
        limits.dialects.get(model_id, ""),
        GgufOptions(gguf.gpu_layers, gguf.threads, gguf.mmap, cache_bytes),
        kv_cache_bytes=cache_bytes,
        purpose=source.purpose,
        gap_target_ms=limits.gap_target_ms,
        kv_bits=_kv_bits(limits, model_id, source),
        speculation=limits.speculation,
    )


def _context_limit(settings: Settings, source: Source) -> int | None:
    """What settings say of a context's length for models of that engine."""
    own = settings.gguf.context_tokens if source.engine == "llama" else None
    return own or settings.models.context_tokens


def _kv_bits(settings: ModelSettings, model_id: str, source: Source) -> int | None:
    """What settings say of a model's cache; what they say of all holds where there is one."""
    of_all = settings.kv_bits.get(EVERY_MODEL) if source.purpose == "generation" else None
    bits = settings.kv_bits.get(model_id, of_all)
    return None if bits == FLOAT_BITS else bits


def kv_cache_bytes(settings: GgufSettings) -> int | None:
    """The cache somebody set for GGUF models by hand."""
    return None if settings.kv_cache_gb is None else round(settings.kv_cache_gb * 1e9)
