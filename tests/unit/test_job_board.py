"""Jobs on a board: so many at a time, noted on disk, ended by whoever asks, never by a restart."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.jobs.arrivals import make_wanted
from lmx.daemon.jobs.board import Board, newest_first
from lmx.daemon.jobs.offers import REMEMBERED_S, VALID_S, Offers
from lmx.daemon.jobs.record import DownloadJob, LoadWish, Wanted, new_id, read_jobs
from lmx.daemon.jobs.space import check_space
from lmx.errors import (
    HubUnreachable,
    InvalidRequest,
    JobNotFound,
    LmxError,
    StorageFull,
    TokenExpired,
    TokenNotFound,
)
from lmx.protocol.jobs import DownloadPlan, JobProgress, PlannedFile

PLAN = DownloadPlan(
    repo_id="org/name", commit="c" * 40, stored_as="mlx", files=(PlannedFile("a.json", 100),)
)
LIMIT_S = 20.0


def make_job(home: Path, name: str = "org/name") -> DownloadJob:
    """A download that nobody began."""
    target = home / "models" / name
    return DownloadJob(
        id=new_id("dl"), wanted=Wanted(repo_id=name), plan=PLAN, target=str(target), total_bytes=100
    )


class Yard:
    """A board whose jobs run until they are told how to end.

    Attributes:
        began: Ids, in order.
        told: Changes that were told.
        limit: How many may run.
    """

    def __init__(self, home: Path, limit: int = 2) -> None:
        self.home = home
        self.limit = limit
        self.began: list[str] = []
        self.told: list[tuple[str, str]] = []
        self._begun = trio.Event()
        self._ends: dict[str, trio.Event] = {}
        self._errors: dict[str, LmxError] = {}
        self.board = Board(
            home / "state",
            DownloadJob,
            self._work,
            limit=lambda: self.limit,
            tell=lambda change, job: self.told.append((change, job.id)),
        )

    async def add(self, name: str = "org/name") -> DownloadJob:
        """A new job, which begins if there is room."""
        job = make_job(self.home, name)
        await self.board.add(job)
        return job

    async def end(self, job: DownloadJob, error: LmxError | None = None) -> None:
        """Let a running job end, and wait until it has."""
        if error is not None:
            self._errors[job.id] = error
        self._ends[job.id].set()
        await self.board.wait(job.id)

    async def wait_begun(self, *jobs: DownloadJob) -> None:
        """Wait until just these have begun."""
        with trio.fail_after(LIMIT_S):
            while {job.id for job in jobs} != set(self.began):
                await self._begun.wait()

    async def _work(self, job: DownloadJob) -> None:
        self.began.append(job.id)
        self._begun.set()
        self._begun = trio.Event()
        self._ends[job.id] = trio.Event()
        await self._ends[job.id].wait()
        if job.id in self._errors:
            raise self._errors[job.id]


@asynccontextmanager
async def open_yard(home: Path, limit: int = 2) -> AsyncIterator[Yard]:
    """A running board."""
    yard = Yard(home, limit)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(yard.board.run)
            yield yard
            nursery.cancel_scope.cancel()


def noted(home: Path) -> list[tuple[str, str]]:
    """What is on disk."""
    return [(job.id, job.status) for job in read_jobs(home / "state", DownloadJob)]


async def test_so_many_run_and_others_wait(tmp_path: Path) -> None:
    """In the order they came; one that ends makes room."""
    async with open_yard(tmp_path) as yard:
        jobs = [await yard.add(f"org/{index}") for index in range(3)]
        await yard.wait_begun(*jobs[:2])
        assert ["running", "running", "pending"] == [job.status for job in jobs]
        await yard.end(jobs[0])
        await yard.wait_begun(*jobs)
        assert jobs[::-1] == newest_first(yard.board.jobs)


async def test_a_new_limit_counts_at_once(tmp_path: Path) -> None:
    """What waits begins as soon as more may run, and not when one of those that run ends."""
    async with open_yard(tmp_path, limit=1) as yard:
        first, second = await yard.add("org/a"), await yard.add("org/b")
        await yard.wait_begun(first)
        yard.limit = 2
        yard.board.look_again()
        await yard.wait_begun(first, second)


async def test_how_a_job_ends_is_noted_and_told(tmp_path: Path) -> None:
    """Well, badly, or by somebody's word."""
    async with open_yard(tmp_path, limit=3) as yard:
        good, bad, unwanted = [await yard.add(f"org/{index}") for index in range(3)]
        await yard.wait_begun(good, bad, unwanted)
        await yard.end(good)
        await yard.end(bad, HubUnreachable("gone"))
        assert unwanted is await yard.board.cancel(unwanted.id)
    assert [("completed", good.id), ("failed", bad.id), ("cancelled", unwanted.id)] == yard.told
    assert ("gone", "hub_unreachable") == (bad.error, bad.error_code)
    assert ("cancelled", 100.0) == (unwanted.error_code, good.percent)
    assert sorted((job_id, change) for change, job_id in yard.told) == sorted(noted(tmp_path))


async def test_what_waits_can_be_ended(tmp_path: Path) -> None:
    """It never begins; ending it twice changes nothing."""
    async with open_yard(tmp_path, limit=1) as yard:
        first, second = await yard.add("org/1"), await yard.add("org/2")
        await yard.wait_begun(first)
        for _ in range(2):
            assert "cancelled" == (await yard.board.cancel(second.id)).status
        await yard.end(first)
        await wait_all_tasks_blocked()
        assert [first.id] == yard.began
        with pytest.raises(JobNotFound):
            await yard.board.cancel("none")


async def test_a_restart_goes_on(tmp_path: Path) -> None:
    """What ran and what waited begin again, in their order; what had ended does not."""
    async with open_yard(tmp_path, limit=1) as yard:
        done, running, waiting = [await yard.add(f"org/{index}") for index in range(3)]
        running.wish = LoadWish(name="org/1")
        await yard.wait_begun(done)
        await yard.end(done)
        await yard.wait_begun(done, running)
    assert [("completed", done.id)] == yard.told  # a stop is no end
    async with open_yard(tmp_path, limit=1) as later:
        await later.wait_begun(running)
        again = later.board.get(running.id)
        assert (running.wanted, PLAN, running.wish) == (again.wanted, again.plan, again.wish)
        assert "pending" == later.board.get(waiting.id).status
        await later.end(again)
        await later.wait_begun(running, waiting)


async def test_a_damaged_note_costs_one_job(tmp_path: Path) -> None:
    """The others are known."""
    async with open_yard(tmp_path) as yard:
        job = await yard.add()
    (tmp_path / "state/dl_x.json").write_bytes(b'{"id": 1')
    async with open_yard(tmp_path) as yard:
        await yard.board.recall()
        assert [job.id] == [one.id for one in yard.board.jobs]


async def test_a_disk_that_takes_no_notes_costs_nothing_else(tmp_path: Path) -> None:
    """Jobs run all the same."""
    (tmp_path / "state").write_bytes(b"no folder")
    async with open_yard(tmp_path) as yard:
        job = await yard.add()
        await yard.wait_begun(job)
        await yard.end(job)
        assert "completed" == job.status


async def test_progress_is_told_twice_a_second(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However often it is known; a job's own number is always the latest."""
    assert 0 == autojump_clock.rate
    yard, job = Yard(tmp_path), make_job(tmp_path)  # no thread runs, which the clock would outrun
    for number in range(9):
        yard.board.advance(job, JobProgress(stage="download", done_bytes=number, total_bytes=100))
        await trio.sleep(0.25)
    assert ("download", 8, 8.0) == (job.stage, job.done_bytes, job.percent)
    assert 5 == len(yard.told)


async def test_a_job_is_forgotten_with_what_it_left(tmp_path: Path) -> None:
    """Its note and its unfinished files; others keep theirs."""
    async with open_yard(tmp_path) as yard:
        jobs = []
        for index in range(3):
            jobs.append(await yard.add(f"org/{index}"))
            jobs[-1].partial.mkdir(parents=True)
            await yard.wait_begun(*jobs)
            await yard.end(jobs[-1], StorageFull("full"))
        await yard.board.forget(jobs[0])
        assert jobs[1:] == yard.board.jobs
        assert [False, True, True] == [job.partial.exists() for job in jobs]
    assert [job.id for job in jobs[1:]] == [job_id for job_id, _ in noted(tmp_path)]


def test_a_token_is_good_for_ten_minutes() -> None:
    """It may be shown again meanwhile, and says later that it has expired."""
    now = [0.0]
    offers: Offers[str] = Offers(lambda: now[0])
    token = offers.make("offer")
    for now[0] in (0.0, VALID_S):
        assert "offer" == offers.take(token)
    now[0] = VALID_S + 1
    with pytest.raises(TokenExpired):
        offers.take(token)
    now[0] = REMEMBERED_S + 1
    offers.make("another")
    for unknown in (token, "x"):
        with pytest.raises(TokenNotFound):
            offers.take(unknown)


@pytest.mark.parametrize(("needed", "fits"), [(70, True), (71, False)])
async def test_space_is_left(tmp_path: Path, needed: int, *, fits: bool) -> None:
    """To the byte, and with the numbers in the refusal."""
    check = partial_check(tmp_path, needed)
    if fits:
        await check()
    else:
        with pytest.raises(StorageFull, match=r"has 0\.0 GB"):
            await check()


def partial_check(place: Path, needed: int) -> Callable[[], Awaitable[None]]:
    """A check on a disk with 100 free bytes, of which 30 stay."""
    return lambda: check_space(place, needed, reserve_bytes=30, free=lambda _: 100)


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "/etc", "a--b/c", "org/..", "~/x", "x.gguf"])
def test_only_names_of_repositories_are_wanted(name: str) -> None:
    """No path, and nothing that a hub would not know."""
    with pytest.raises(InvalidRequest):
        make_wanted(name)


def test_a_name_may_say_a_quantisation() -> None:
    """In the spellings of other programs."""
    for text in ("org/name@q8_0", "org/name:Q8_0"):
        wanted = make_wanted(text)
        assert ("org/name", "q8_0", "org/name@q8_0") == (
            wanted.repo_id,
            wanted.variant,
            wanted.model_id,
        )
