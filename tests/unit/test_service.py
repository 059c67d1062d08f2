"""While a worker serves, the first thing that asks for a decision is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock

from lmx.config import ModelSettings, Settings, WorkerSettings
from lmx.daemon.admission import Admission
from lmx.daemon.lease import Lease, LeaseSeat
from lmx.daemon.model import LoadOptions, ReadyModel
from lmx.daemon.service import CPU_PATIENCE, Service, Verdict
from lmx.protocol.messages import LeaseReleased, LeaseWanted
from lmx.protocol.values import ModelInfo
from tests.fakes import ScriptedWorker, generate, loaded_event, ready_model
from tests.lifecycle import FICKLE, FOREVER, HOME, Life, open_house

SIZES = {"a": 700}
INFO = ModelInfo(100, 4, device="gpu", engine="mlx")


def keeping(keep_alive_s: float | None) -> Settings:
    """Settings under which idle models leave after so long."""
    models = ModelSettings(keep_alive_s=keep_alive_s, min_residency_s=0)
    return msgspec.structs.replace(FICKLE, models=models)


async def test_an_idle_model_leaves(autojump_clock: MockClock) -> None:
    """Its time counts from the last byte of the last request; a request brings it back."""
    async with open_house(SIZES, settings=keeping(100), on_disk=["a"]) as (house, _):
        await house.load("a")
        await trio.sleep(98)
        await house.ask("a")
        await trio.sleep(98)
        house.check("a")
        await trio.sleep(4)
        house.check()
        assert ["ttl"] == house.telemetry.of("model_unloaded", "reason")
        await house.ask("a", "again")
        assert (["a", "again"], []) == (house.answered, house.failed)


@pytest.mark.parametrize(
    ("general", "own", "is_pinned", "stays"),
    [
        (None, None, False, True),
        (50, None, False, False),
        (50, -1, False, True),
        (50, 1000, False, True),
        (None, 50, False, False),
        (50, None, True, True),
        (None, 0, True, True),
    ],
)
async def test_who_leaves_when_idle(
    general: float | None,
    own: float | None,
    is_pinned: bool,  # noqa: FBT001
    stays: bool,  # noqa: FBT001
    autojump_clock: MockClock,
) -> None:
    """The model's own time goes before the settings'; negative and pinned is for ever."""
    async with open_house(SIZES, settings=keeping(general)) as (house, _):
        await house.load("a", options=LoadOptions(keep_alive_s=own, is_pinned=is_pinned))
        await trio.sleep(100)
        house.check(*(["a"] if stays else []))


async def test_at_once_when_idle(autojump_clock: MockClock) -> None:
    """With no idle time at all a model answers everybody in line, and then goes."""
    async with open_house(SIZES, settings=keeping(0)) as (house, requests):
        house.want("a")
        for number in range(20):
            requests.start_soon(house.ask, "a", str(number))
        await trio.sleep(10)
        house.check()
        assert (20, []) == (len(house.answered), house.failed)
        assert 1 == len(house.loader.attempts)


async def test_a_long_request_is_not_idleness(autojump_clock: MockClock) -> None:
    """A model that is in use does not expire."""
    slow = Life(1, FOREVER, answer_s=25)
    async with open_house(SIZES, settings=keeping(5), usual=slow) as (house, _):
        await house.load("a")
        await house.ask("a")
        assert (["a"], []) == (house.answered, house.failed)


async def test_a_request_at_the_moment_of_expiry_is_answered(autojump_clock: MockClock) -> None:
    """Requests at all phases of the decision to leave are answered, by it or by the next."""
    async with open_house(SIZES, settings=keeping(1)) as (house, _):
        await house.load("a")
        for step in range(60):
            await house.ask("a")
            await trio.sleep(0.9 + step * 0.02)
        assert (60, []) == (len(house.answered), house.failed)


@asynccontextmanager
async def open_service(
    info: ModelInfo, lease: Lease
) -> AsyncIterator[tuple[Service, ReadyModel, LeaseSeat]]:
    """A service over a worker that the test plays, whose stall limit is 10 s."""
    worker = ScriptedWorker()
    model = ready_model(worker)
    loaded = msgspec.structs.replace(loaded_event(), info=info)
    ready = ReadyModel(worker, loaded, Admission(slot_count=1, max_waiting=0))
    model.become_ready(ready)
    settings = Settings(home=HOME, worker=WorkerSettings(stall_s=10))
    async with lease.seat("m") as seat, trio.open_nursery() as nursery:
        seat.connect(worker.link)
        nursery.start_soon(worker.run)
        service = Service(model, ready, seat=seat, settings=settings, footprint=lambda _: None)
        yield service, ready, seat
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("device", "engine", "limit_s"),
    [
        ("gpu", "mlx", 10.0),
        ("cpu", "mlx", 10.0 * CPU_PATIENCE),
        ("cpu", "llama", 10.0 * CPU_PATIENCE),
        ("cpu", "fake", 10.0),
    ],
)
async def test_the_cpu_has_more_time(device: str, engine: str, limit_s: float) -> None:
    """A step that is slow by nature is no hang."""
    info = ModelInfo(100, 4, device=device, engine=engine)
    async with open_service(info, Lease("shared", slice_s=0.05)) as (service, *_):
        assert limit_s == service.stall_limit_s


async def test_waiting_for_the_device_is_no_hang(autojump_clock: MockClock) -> None:
    """A worker is excused while another computes, and due again once it may."""
    lease = Lease("exclusive", slice_s=0.05)
    async with open_service(INFO, lease) as (service, ready, seat), lease.seat("other") as it:
        it.connect(ScriptedWorker().link)
        it.on_frame(LeaseWanted())
        seat.on_frame(LeaseWanted())
        ready.worker.link.open_replies(generate())
        with trio.move_on_after(100) as patience:
            await service.watch()
        assert patience.cancelled_caught
        it.on_frame(LeaseReleased(wants_more=False))
        before_s = trio.current_time()
        assert Verdict.STALLED is await service.watch()
        assert 10 <= trio.current_time() - before_s <= 11


async def test_not_handing_over_is_a_hang(autojump_clock: MockClock) -> None:
    """A worker without work that keeps the device from others is ended for them."""
    lease = Lease("exclusive", slice_s=0.05)
    async with open_service(INFO, lease) as (service, _ready, seat), lease.seat("other") as it:
        seat.on_frame(LeaseWanted())
        it.connect(ScriptedWorker().link)
        it.on_frame(LeaseWanted())
        with trio.fail_after(12):
            assert Verdict.STALLED is await service.watch()
