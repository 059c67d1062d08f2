"""The guardian warns once, makes room step by step, and survives a meter that fails.

Readings happen in threads, which an autojump clock does not wait for: tests wait until the script
of the meter has been read, never for a time.
"""

import threading
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from lmx.config import MemorySettings, Settings
from lmx.daemon.gauge import Gauge
from lmx.daemon.guardian import HOLD_READINGS, Guardian, budget_bytes, measure_usage
from lmx.daemon.meter import Pressure, Reading
from lmx.daemon.telemetry import DaemonEvent, Telemetry

MEMORY = MemorySettings()
SETTINGS = Settings(home=Path("/nowhere"), memory=MEMORY)
TOTAL_BYTES = 100_000_000_000


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Jumps after a moment's pause, so that the loop does not spin while a thread reads."""
    autojump_clock.autojump_threshold = 0.001
    return autojump_clock


def reading(percent: float, pressure: Pressure = "normal") -> Reading:
    """A reading of a machine of 100 GB."""
    return Reading(
        used_bytes=round(TOTAL_BYTES * percent / 100),
        total_bytes=TOTAL_BYTES,
        daemon_bytes=1_000_000_000,
        worker_bytes={7: 2_000_000_000, 8: 3_000_000_000},
        pressure=pressure,
    )


class ScriptedMeter:
    """Gives each of a list of readings, or raises it, and then hangs until released.

    Attributes:
        done: Set when the last reading was judged, which precedes the next.
        pids: What was asked for last.
        threads: Identities of the threads that read.
    """

    def __init__(self, *script: Reading | Exception) -> None:
        self._script = list(script)
        self._is_released = threading.Event()
        self.done = trio.Event()
        self.pids: Collection[int] = ()
        self.threads: set[int] = set()

    def read(self, pids: Collection[int]) -> Reading:
        self.pids = pids
        self.threads.add(threading.get_ident())
        if not self._script:
            trio.from_thread.run_sync(self.done.set)
            self._is_released.wait(timeout=10)
            raise OSError("the script is at its end")
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def release(self) -> None:
        """End the thread that hangs."""
        self._is_released.set()


class RecordedRelief:
    """Notes what it is asked for, and when.

    Args:
        idle: Models that nobody uses, least recently used first.
        busy: Models in use, largest first.
    """

    def __init__(self, idle: Sequence[str] = (), busy: Sequence[str] = ()) -> None:
        self._idle, self._busy = list(idle), list(busy)
        self.worker_pids = {7, 8}
        self.steps: list[str] = []
        self.times: list[float] = []

    def _note(self, step: str) -> None:
        self.steps.append(step)
        self.times.append(trio.current_time())

    def shrink_caches(self) -> None:
        self._note("shrink")

    def set_admitting(self, *, is_admitting: bool) -> None:
        self._note("admit" if is_admitting else "refuse")

    async def evict_idle(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self._take("evict", self._idle)

    async def unload_biggest(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self._take("unload", self._busy)

    def _take(self, step: str, models: list[str]) -> str | None:
        if not models:
            return None
        model = models.pop(0)
        self._note(f"{step} {model}")
        return model


async def run_through(guardian: Guardian, meter: ScriptedMeter) -> None:
    """Run the guardian until it has judged the whole script."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guardian.run)
        await meter.done.wait()
        nursery.cancel_scope.cancel()
    meter.release()


async def watch(
    *script: Reading | Exception, relief: RecordedRelief | None = None
) -> list[DaemonEvent]:
    """The events of a guardian that goes through these readings."""
    telemetry, meter = Telemetry(), ScriptedMeter(*script)
    guardian = Guardian(SETTINGS, Gauge(meter), relief or RecordedRelief(), telemetry=telemetry)
    with telemetry.subscribe() as channel:
        await run_through(guardian, meter)
        count = channel.statistics().current_buffer_used
        return [channel.receive_nowait() for _ in range(count)]


async def relieve(
    *percents: float, idle: Sequence[str] = (), busy: Sequence[str] = ()
) -> list[str]:
    """The steps that these readings lead to."""
    relief = RecordedRelief(idle, busy)
    await watch(*map(reading, percents), relief=relief)
    return relief.steps


class TestWarning:
    async def test_it_is_sent_once_per_crossing(self, clock: MockClock) -> None:
        """Use above the level for a while is one event and one line in the log."""
        with capture_logs() as lines:
            events = await watch(reading(84.9), reading(85), reading(87), reading(86))
        message = "Memory usage at 85.0% (85.0/100.0 GB)"
        fields = {"vram_used_gb": 85.0, "vram_total_gb": 100.0, "pct": 85.0, "message": message}
        assert [DaemonEvent("memory_warning", fields)] == events
        assert [message] == [line["event"] for line in lines]

    @pytest.mark.parametrize(("low", "count"), [(84.9, 1), (83.0, 1), (82.9, 2), (10, 2)])
    async def test_it_has_hysteresis(self, clock: MockClock, low: float, count: int) -> None:
        """Only use that fell two percent below the level can cross it again."""
        assert count == len(await watch(reading(86), reading(low), reading(86)))

    async def test_pressure_warns_too(self, clock: MockClock) -> None:
        """The system's verdict counts at any percentage, and ends with itself."""
        pressed = reading(40, "warn")
        events = await watch(pressed, pressed, reading(40), pressed)
        assert ["memory_warning"] * 2 == [event.type for event in events]
        assert events[0].fields["message"].endswith(" memory pressure: warn")


class TestRelief:
    @pytest.mark.parametrize(
        ("count", "steps"),
        [
            (1, ["shrink"]),
            (2, ["shrink", "refuse"]),
            (3, ["shrink", "refuse", "evict a"]),
            (4, ["shrink", "refuse", "evict a", "evict b"]),
            (5, ["shrink", "refuse", "evict a", "evict b", "unload c"]),
            (9, ["shrink", "refuse", "evict a", "evict b", "unload c", "unload d"]),
        ],
    )
    async def test_one_step_per_reading(
        self, clock: MockClock, count: int, steps: list[str]
    ) -> None:
        """From the cheapest to the dearest, and no further than the readings ask for."""
        assert steps == await relieve(*[90.0] * count, idle=["a", "b"], busy=["c", "d"])

    async def test_steps_are_a_period_apart(self, clock: MockClock) -> None:
        """Memory gets the time to come back."""
        relief = RecordedRelief(["a"], ["b"])
        await watch(*[reading(95)] * 4, relief=relief)
        gaps = [after - before for before, after in pairwise(relief.times)]
        assert 3 == len(gaps)
        assert all(gap >= MEMORY.period_s for gap in gaps)

    @pytest.mark.parametrize("percent", [80, 89.9])
    async def test_it_stops_below_the_level(self, clock: MockClock, percent: float) -> None:
        """One step that suffices is the only one."""
        assert ["shrink"] == await relieve(90, percent, percent, idle=["a"])

    async def test_requests_are_accepted_below_the_warning_level(self, clock: MockClock) -> None:
        """Between the levels nothing changes; below both it starts from the first step again."""
        steps = await relieve(91, 91, 89, 85, 84.9, 50, 91, 91, idle=["a"])
        assert ["shrink", "refuse", "admit", "shrink", "refuse"] == steps

    async def test_a_climb_between_the_levels_goes_on(self, clock: MockClock) -> None:
        """What was tried a moment ago is not tried again."""
        steps = await relieve(91, 91, 87, 91, idle=["a"])
        assert ["shrink", "refuse", "evict a"] == steps

    async def test_use_that_stays_between_the_levels(self, clock: MockClock) -> None:
        """Weights alone may need that much; requests are not refused for ever."""
        held = ["shrink", "refuse"]
        assert held == await relieve(91, 91, *[87] * (HOLD_READINGS - 1))
        assert [*held, "admit"] == await relieve(91, 91, *[87] * HOLD_READINGS)
        interrupted = [*[87] * (HOLD_READINGS - 1), 91, *[87] * (HOLD_READINGS - 1)]
        assert held == await relieve(91, 91, *interrupted)

    async def test_pressure_counts_like_use(self, clock: MockClock) -> None:
        """Critical pressure makes room at any percentage; a mere warning holds."""
        relief = RecordedRelief()
        pressed = reading(40, "critical")
        await watch(pressed, pressed, reading(40, "warn"), relief=relief)
        assert ["shrink", "refuse"] == relief.steps
        relief = RecordedRelief()
        await watch(pressed, pressed, reading(40), relief=relief)
        assert ["shrink", "refuse", "admit"] == relief.steps

    async def test_unloaded_models_are_told(self, clock: MockClock) -> None:
        """Each is an event with the fields that clients know."""
        warning, *events = await watch(*[reading(92.5)] * 4, relief=RecordedRelief(["a"], ["b"]))
        assert "memory_warning" == warning.type
        assert ["memory_critical"] * 2 == [event.type for event in events]
        assert ["a", "b"] == [event.fields.pop("model_id") for event in events]
        expected = {
            "vram_used_gb": 92.5,
            "vram_total_gb": 100.0,
            "pct": 92.5,
            "message": "Memory critical at 92.5% — unloading model",
            "action": "model_unloaded",
        }
        assert [expected] * 2 == [event.fields for event in events]

    async def test_nothing_left_is_said_once(self, clock: MockClock) -> None:
        """Memory that others hold is no stream of lines, and no event about a model."""
        with capture_logs() as lines:
            events = await watch(*[reading(95)] * 8)
        assert ["memory_warning"] == [event.type for event in events]
        errors = [line["event"] for line in lines if line["log_level"] == "error"]
        assert ["no model is left to unload"] == errors


class TestMeter:
    async def test_a_failing_meter_is_said_once(self, clock: MockClock) -> None:
        """Once per failure in a row; the guardian goes on where it was."""
        error = OSError("no such luck")
        with capture_logs() as lines:
            await watch(error, error, reading(10), error, reading(10))
        assert ["no such luck"] * 2 == [line["reason"] for line in lines]

    async def test_unknown_is_neither_good_nor_bad(self, clock: MockClock) -> None:
        """A failed reading takes no step and takes none back."""
        relief = RecordedRelief(["a"])
        await watch(reading(95), OSError(), reading(95), OSError(), reading(95), relief=relief)
        assert ["shrink", "refuse", "evict a"] == relief.steps

    async def test_unknown_for_long_refuses_nobody(self, clock: MockClock) -> None:
        """Requests are not refused for ever for a meter that broke at the wrong moment."""
        relief = RecordedRelief()
        errors = [OSError()] * HOLD_READINGS
        await watch(reading(95), reading(95), *errors, relief=relief)
        assert ["shrink", "refuse", "admit"] == relief.steps

    async def test_readings_are_taken_in_a_thread(self, clock: MockClock) -> None:
        """The event loop opens no files; the last reading is kept for others to see."""
        meter = ScriptedMeter(reading(10), reading(20), OSError())
        gauge = Gauge(meter)
        guardian = Guardian(SETTINGS, gauge, RecordedRelief(), telemetry=Telemetry())
        assert gauge.reading is None
        await run_through(guardian, meter)
        assert threading.get_ident() not in meter.threads
        assert {7, 8} == set(meter.pids)
        assert reading(20) == gauge.reading

    async def test_it_has_started_when_the_first_reading_is_judged(self, clock: MockClock) -> None:
        """Who starts it can size a ledger by the reading."""
        meter = ScriptedMeter(reading(95))
        relief = RecordedRelief()
        gauge = Gauge(meter)
        guardian = Guardian(SETTINGS, gauge, relief, telemetry=Telemetry())
        async with trio.open_nursery() as nursery:
            await nursery.start(guardian.run)
            assert (reading(95), ["shrink"]) == (gauge.reading, relief.steps)
            nursery.cancel_scope.cancel()
        meter.release()


class TestBudget:
    def test_of_the_machine(self) -> None:
        """Everybody's use counts; models may reserve up to the critical level."""
        assert 60.0 == measure_usage(MEMORY, reading(60)).percent
        assert 90_000_000_000 - reading(60).daemon_bytes == budget_bytes(MEMORY, reading(60))

    def test_by_hand(self) -> None:
        """The daemon's and the workers' use counts, against that budget, and nobody else's."""
        settings = MemorySettings(budget_gb=8)
        usage = measure_usage(settings, reading(99))
        assert (6_000_000_000, 75.0) == (usage.used_bytes, usage.percent)
        assert 7_200_000_000 - reading(99).daemon_bytes == budget_bytes(settings, reading(99))

    def test_levels_can_be_set(self) -> None:
        """The critical level bounds what models may reserve, and the daemon's own share is off."""
        settings = MemorySettings(warning_percent=40, critical_percent=50)
        assert 50_000_000_000 - reading(60).daemon_bytes == budget_bytes(settings, reading(60))
