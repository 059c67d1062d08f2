"""Files over a network that cuts, stalls, lies and forgets: right in the end, or refused."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from lmx.errors import ChecksumMismatch, HubUnreachable, LmxError, ModelNotFound, RepositoryGated
from lmx.jobs.fetch import ATTEMPTS, LARGEST_RANGE_BYTES, Source, fetch_file
from lmx.jobs.hub import Hub
from lmx.jobs.parts import PartFile, is_whole
from lmx.protocol.jobs import DownloadPlan, PlannedFile, PlanOrder
from tests.hub_server import COMMIT, LoopbackHub, mlx_files, open_hub, weights

SIZE = 200_000
WEIGHTS = "model.safetensors"


class Fetch:
    """One file on its way from a hub."""

    def __init__(self, hub: LoopbackHub, directory: Path) -> None:
        self.server = hub
        self.directory = directory
        self.hub = Hub(hub.url, hub.token or "")
        self.plan = self.hub.plan(PlanOrder(repo_id="org/name"))
        self.pauses: list[float] = []
        self.counted = 0

    @property
    def file(self) -> PlannedFile:
        """The weights."""
        return next(file for file in self.plan.files if file.path == WEIGHTS)

    def run(self, *, stall_s: float = 10.0, range_bytes: int = LARGEST_RANGE_BYTES) -> None:
        """Fetch it, with pauses that take no time."""
        part = PartFile(self.directory, self.file)
        with httpx2.Client(follow_redirects=True) as client:
            url = self.hub.url(self.plan, WEIGHTS)
            source = Source(client, url, self.hub.headers, stall_s, range_bytes)
            try:
                part.open(self._count)
                fetch_file(source, part, self._count, sleep=self.pauses.append)
            finally:
                part.close()

    @property
    def is_whole(self) -> bool:
        """Whether it has arrived and was verified."""
        return is_whole(self.directory, self.file)

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for."""
        return [asked.range for asked in self.server.asked]

    def _count(self, count: int) -> None:
        self.counted += count


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    """A hub with one model."""
    with open_hub() as hub:
        hub.add("org/name", mlx_files(SIZE))
        yield hub


@pytest.fixture
def fetch(server: LoopbackHub, tmp_path: Path) -> Fetch:
    """Its weights, not fetched yet."""
    return Fetch(server, tmp_path)


def test_a_file_comes_by_a_redirect(fetch: Fetch) -> None:
    """With one request, and every byte counted."""
    fetch.run()
    assert (True, SIZE, [None], []) == (fetch.is_whole, fetch.counted, fetch.ranges, fetch.pauses)


def test_a_cut_connection_is_continued(fetch: Fetch) -> None:
    """Where it was cut, as often as it brings something; no byte is sent twice."""
    fetch.server.faults.cuts = [16_384] * 9
    fetch.run()
    assert (True, SIZE, SIZE) == (fetch.is_whole, fetch.counted, fetch.server.sent(WEIGHTS))
    assert [None, *(f"bytes={16_384 * n}-" for n in range(1, 10))] == fetch.ranges


def test_a_connection_that_brings_nothing_is_given_up(fetch: Fetch) -> None:
    """After so many attempts in a row; what came before is there for the next time."""
    fetch.server.faults.cuts = [16_384] + [0] * ATTEMPTS
    with pytest.raises(HubUnreachable, match="continues at 16384 bytes"):
        fetch.run()
    # The first pause comes after the attempt that brought something.
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0] == fetch.pauses
    fetch.run()
    assert (True, SIZE) == (fetch.is_whole, fetch.server.sent(WEIGHTS))


def test_redirects_without_end_are_a_cut(fetch: Fetch) -> None:
    """A storage that sends round in circles costs an attempt, not the process."""
    place = f"/storage/org/name//{WEIGHTS}"
    around = {"Location": f"http://localhost:{fetch.server.server_port}{place}"}
    fetch.server.faults.statuses = [(302, around)] * 21
    fetch.run()
    assert (True, [0.5]) == (fetch.is_whole, fetch.pauses)


def test_silence_is_a_cut(fetch: Fetch) -> None:
    """A peer that falls silent is left for another connection, which goes on where it was."""
    fetch.server.faults.hold_after = 49_152
    fetch.run(stall_s=0.05)
    assert fetch.is_whole
    # A busy machine may need that long for a first byte, too.
    places = list(dict.fromkeys(fetch.ranges))
    assert [None, *(f"bytes={49_152 * n}-" for n in range(1, 5))] == places


def test_a_peer_that_never_speaks_is_given_up(fetch: Fetch) -> None:
    """Though it takes every connection."""
    fetch.server.faults.hold_after = 0
    with pytest.raises(HubUnreachable):
        fetch.run(stall_s=0.02)
    assert ATTEMPTS == len(fetch.ranges)


def test_a_range_that_is_ignored_begins_anew(fetch: Fetch) -> None:
    """The whole body replaces the part, and the count goes back."""
    fetch.server.faults.cuts = [65_536]
    fetch.server.faults.ignores_ranges = True
    fetch.run()
    assert (True, SIZE) == (fetch.is_whole, fetch.counted)
    assert SIZE + 65_536 == fetch.server.sent(WEIGHTS)


def test_no_request_asks_for_too_much(fetch: Fetch) -> None:
    """Very large files come in several answers, without a pause between them."""
    fetch.run(range_bytes=80_000)
    assert (True, SIZE, []) == (fetch.is_whole, fetch.counted, fetch.pauses)
    assert ["bytes=0-79999", "bytes=80000-159999", "bytes=160000-"] == fetch.ranges


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(fetch: Fetch, status: int) -> None:
    """As long as the hub asks for, if it does."""
    fetch.server.faults.statuses = [(status, {"Retry-After": "7"}), (status, {})]
    fetch.run()
    assert (True, [7.0, 1.0]) == (fetch.is_whole, fetch.pauses)


def test_too_long_a_wait_is_a_failure(fetch: Fetch) -> None:
    """The hub asks for an hour: somebody else should decide."""
    fetch.server.faults.statuses = [(429, {"Retry-After": "3600"})]
    with pytest.raises(HubUnreachable, match="429"):
        fetch.run()
    assert [] == fetch.pauses


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, RepositoryGated), (403, RepositoryGated), (404, ModelNotFound), (418, HubUnreachable)],
)
def test_what_does_not_pass_ends_it(fetch: Fetch, status: int, kind: type[LmxError]) -> None:
    """At once, with the reason."""
    fetch.server.faults.statuses = [(status, {})]
    with pytest.raises(kind):
        fetch.run()
    assert ([], False) == (fetch.pauses, fetch.is_whole)


def test_wrong_content_is_fetched_once_more_and_then_refused(fetch: Fetch) -> None:
    """Nothing of it stays."""
    fetch.server.faults.garbled = {WEIGHTS}
    with pytest.raises(ChecksumMismatch, match="another digest"):
        fetch.run()
    assert (2 * SIZE, 0) == (fetch.server.sent(WEIGHTS), fetch.counted)
    assert [] == list(fetch.directory.iterdir())


def test_a_damaged_part_is_fetched_anew(fetch: Fetch) -> None:
    """A disk that lost power may have kept the length and not the content."""
    (fetch.directory / f"{WEIGHTS}.part").write_bytes(bytes(SIZE))
    fetch.run()
    assert (True, SIZE) == (fetch.is_whole, fetch.server.sent(WEIGHTS))


@pytest.mark.parametrize("error", [5, -5])
def test_a_length_that_was_not_announced_is_refused(fetch: Fetch, error: int) -> None:
    """Such as a page of some gateway, before any of it is taken."""
    fetch.server.faults.length_error = error
    with pytest.raises(ChecksumMismatch, match="announced"):
        fetch.run()
    assert 0 == fetch.counted


def test_a_shorter_file_than_the_part_begins_anew(fetch: Fetch) -> None:
    """The server knows no such range; what is here belongs to something else."""
    fetch.server.repositories["org/name"][WEIGHTS] = weights(1000)
    (fetch.directory / f"{WEIGHTS}.part").write_bytes(bytes(5000))
    with pytest.raises(ChecksumMismatch):
        fetch.run()
    assert ["bytes=5000-", None] == fetch.ranges


def test_the_token_stays_with_the_hub(server: LoopbackHub, tmp_path: Path) -> None:
    """It opens the repository, and the storage that the hub leads to never sees it."""
    server.token = "hf_secret"  # noqa: S105  # it opens nothing
    fetch = Fetch(server, tmp_path)
    fetch.run()
    assert [(True, None)] == [(one.is_storage, one.token) for one in server.asked]


def ask(server: LoopbackHub, **order: str) -> DownloadPlan:
    """The plan for a repository."""
    return Hub(server.url, "").plan(PlanOrder(**{"repo_id": "org/name", **order}))


def test_a_plan_names_what_is_fetched(server: LoopbackHub) -> None:
    """One commit, lengths, and digests of either kind."""
    plan = ask(server)
    kinds = {file.path: (bool(file.sha256), bool(file.git_sha1)) for file in plan.files}
    assert ("org/name", COMMIT, "mlx") == (plan.repo_id, plan.commit, plan.stored_as)
    assert kinds == {
        "config.json": (False, True),
        "tokenizer.json": (False, True),
        WEIGHTS: (True, False),
    }
    assert (WEIGHTS,) == plan.weights


def test_a_mirror_that_lists_names_only_is_asked_for_each_file(server: LoopbackHub) -> None:
    """The plan is the same."""
    expected = ask(server)
    server.faults.hides_digests = True
    assert expected == ask(server)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_question_is_asked_twice(server: LoopbackHub, status: int) -> None:
    """A hub that is tired for a moment costs nothing."""
    server.faults.api_statuses = [(status, {})]
    assert COMMIT == ask(server).commit
    server.faults.api_statuses = [(status, {})] * 2
    with pytest.raises(HubUnreachable, match=str(status)):
        ask(server)


@pytest.mark.parametrize(
    ("order", "status", "header", "kind", "words"),
    [
        ({"repo_id": "org/none"}, 0, "", ModelNotFound, "no repository org/none"),
        ({"revision": "v9"}, 0, "", ModelNotFound, "no revision 'v9'"),
        ({}, 403, "GatedRepo", RepositoryGated, "accept its terms"),
        ({}, 401, "GatedRepo", RepositoryGated, "HF_TOKEN"),
        ({}, 403, "", RepositoryGated, "403"),
        ({}, 404, "RepoNotFound", ModelNotFound, "private"),
    ],
)
def test_refusals_of_the_hub(
    server: LoopbackHub,
    order: dict[str, str],
    status: int,
    header: str,
    *,
    kind: type[LmxError],
    words: str,
) -> None:
    """Each as an error that a person can act on."""
    if status:
        server.faults.api_statuses = [(status, {"X-Error-Code": header} if header else {})]
    with pytest.raises(kind) as refused:
        ask(server, **order)
    assert words in refused.value.message


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"id": "x", "siblings": [1]}'])
def test_what_is_no_hub_is_refused(server: LoopbackHub, answer: bytes) -> None:
    """A gateway's page, another program: never a traceback."""
    server.faults.answers = answer
    with pytest.raises(HubUnreachable):
        ask(server)


def test_a_dead_hub_is_reported() -> None:
    """Within the time of two attempts."""
    with open_hub() as hub:
        url = hub.url
    with pytest.raises(HubUnreachable, match="cannot be reached"):
        Hub(url, "").plan(PlanOrder(repo_id="org/name"))


@pytest.mark.parametrize("path", ["../x.json", "/x.json", "a/../../x.json", "a/.x.json"])
def test_names_that_lead_out_are_refused(server: LoopbackHub, path: str) -> None:
    """No name from the network chooses a place on our disk."""
    server.add("org/evil", {**mlx_files(1000), path: b"{}"})
    with pytest.raises(LmxError, match="no place"):
        Hub(server.url, "").plan(PlanOrder(repo_id="org/evil", allow_patterns=("*x.json",)))
