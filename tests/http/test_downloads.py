"""Downloads over HTTP: offered, confirmed, followed, ended, listed and deleted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema_rs import validator_for

from lmx import __version__
from lmx.schema.openapi import openapi_document
from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, wait_until
from tests.hub_server import LoopbackHub, mlx_files, open_hub, weights
from tests.tiny_models import build_tiny_llama

SIZE = 400_000
LIMIT_S = 30.0


class House(NamedTuple):
    """A daemon, its home, and the hub it knows."""

    daemon: Daemon
    home: Path
    hub: LoopbackHub

    def get(self, path: str) -> Any:
        """The document at a path."""
        with Connection(self.daemon) as connection:
            reply = connection.ask("GET", path)
        assert 200 == reply.status, reply.body
        return reply.json()

    def start(self, repo_id: str, **fields: Any) -> str:
        """Begin a download and give its id."""
        reply = post(self.daemon, "/admin/models/download", repo_id=repo_id, **fields)
        assert 200 == reply.status, reply.body
        return str(described("DownloadStarted", reply)["download_id"])

    def progress(self, job_id: str) -> dict[str, Any]:
        """How far a download is."""
        row = self.get(f"/admin/models/download/{job_id}/progress")
        assert isinstance(row, dict)
        return row

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a download has one of these statuses."""
        wanted = statuses or ("completed", "failed")
        assert wait_until(lambda: self.progress(job_id)["status"] in wanted, limit_s=LIMIT_S), (
            self.progress(job_id)
        )
        return self.progress(job_id)

    @contextmanager
    def hub_that_holds(self, after_bytes: int) -> Iterator[None]:
        """Large files stop after so many bytes, until the block ends."""
        self.hub.faults.hold_after = after_bytes
        self.hub.may_go.clear()
        try:
            yield
        finally:
            self.hub.faults.hold_after = None
            self.hub.may_go.set()

    @contextmanager
    def settings(self, text: str) -> Iterator[None]:
        """Have other settings of downloads, until the block ends."""
        file = self.home / "config.yaml"
        for content in (f"downloads: {{{text}}}\n", ""):
            file.write_text(content)
            assert 200 == post(self.daemon, "/admin/config/reload").status
            if content:
                yield

    def files(self, model_id: str) -> dict[str, bytes]:
        """What is in a model's directory."""
        directory = self.home / "models" / model_id
        return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with a hub of its own, neither with anything but a fake model."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hf")}
    with (
        open_hub() as hub,
        shared_daemon(home, "fake:x", settings={**own, **hub.environment}) as daemon,
    ):
        yield House(daemon, home, hub)


def described(kind: str, reply: Reply) -> Any:
    """A document, held against its schema in the API's description."""
    schema = {**openapi_document(__version__), "$ref": f"#/components/schemas/{kind}"}
    validator_for(schema).validate(reply.json())
    return reply.json()


def codes(reply: Reply) -> tuple[int, str, str]:
    """The status and both codes of a refusal."""
    document = reply.json()
    return reply.status, document["code"], document["error"]["code"]


def test_an_absent_model_is_offered_downloaded_and_loaded(house: House, tmp_path: Path) -> None:
    """As the Opta CLI drives it: 202 and a token, confirm, progress, then it answers."""
    files = house.hub.add("org/tiny", build_tiny_llama(tmp_path / "tiny"))
    size = sum(map(len, files.values()))
    reply = post(house.daemon, "/admin/models/load", model_id="org/tiny")
    offer = described("DownloadPending", reply)
    assert (202, "download_required") == (reply.status, offer["status"])
    assert ("org/tiny", size, None) == (
        offer["model_id"],
        offer["estimated_size_bytes"],
        offer["download_id"],
    )
    assert offer["estimated_size_human"].endswith("kB")
    token = offer["confirmation_token"]
    confirmed = post(house.daemon, offer["confirm_url"], confirmation_token=token)
    assert (202, "downloading") == (
        confirmed.status,
        described("DownloadPending", confirmed)["status"],
    )
    row = house.wait(confirmed.json()["download_id"])
    assert ("completed", 100.0, size, size) == (
        row["status"],
        row["progress_percent"],
        row["downloaded_bytes"],
        row["total_bytes"],
    )
    assert len(files) == row["files_completed"] == row["files_total"]

    def is_loaded() -> bool:
        return "org/tiny" in [row["id"] for row in house.get("/admin/models")["loaded"]]

    assert wait_until(is_loaded, limit_s=LIMIT_S)
    answer = chat(house.daemon, "org/tiny", max_tokens=3)
    assert (200, 3) == (answer.status, answer.json()["usage"]["completion_tokens"])
    assert files == house.files("org/tiny")
    again = post(house.daemon, "/admin/models/load/confirm", confirmation_token=token)
    assert confirmed.json()["download_id"] == again.json()["download_id"]


def test_who_says_model_waits_for_it(house: House, tmp_path: Path) -> None:
    """One answer, once it is loaded, as the help pages promise."""
    house.hub.add("org/waited", build_tiny_llama(tmp_path / "tiny"))
    reply = post(house.daemon, "/admin/models/load", model="org/waited")
    assert (200, "org/waited") == (reply.status, reply.json()["model"])


def test_a_download_alone_loads_nothing(house: House) -> None:
    """It is on disk afterwards, in the inventory, and what is no part of it is not."""
    house.hub.add("org/plain", files := mlx_files(SIZE))
    row = house.wait(house.start("org/plain"))
    assert "completed" == row["status"], row
    wanted = {"config.json", "tokenizer.json", "model.safetensors"}
    assert {name: files[name] for name in wanted} == house.files("org/plain")
    ids = [row["repo_id"] for row in house.get("/admin/models/available")]
    assert "org/plain" in ids
    assert "org/plain" not in [row["id"] for row in house.get("/admin/models")["loaded"]]


def test_a_preview_begins_nothing(house: House) -> None:
    """It tells the size; of a download that runs, its id; what cannot be, it refuses alike."""
    files = house.hub.add("org/asked", mlx_files(SIZE))
    size = sum(len(files[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))
    path, asked = "/admin/models/download/preview", {"repo_id": "org/asked"}
    preview = described("DownloadPreview", post(house.daemon, path, **asked))
    assert (None, 3, size) == (
        preview["download_id"],
        preview["files_total"],
        preview["estimated_size_bytes"],
    )
    assert "org/asked" not in str(house.get("/admin/models/downloads?include_inactive=true"))
    with house.hub_that_holds(10_000):
        job_id = house.start("org/asked")
        assert job_id == post(house.daemon, path, **asked).json()["download_id"]
    assert "completed" == house.wait(job_id)["status"]
    refused = post(house.daemon, path, repo_id="org/none")
    assert (404, "not_found", "model-not-found") == codes(refused)


def test_one_quantisation_is_fetched(house: House) -> None:
    """The one that is named, or else the usual one; a second comes beside it."""
    names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    files = house.hub.add(
        "org/some-GGUF", {name: weights(10_000 + i) for i, name in enumerate(names)}
    )
    house.wait(house.start("org/some-GGUF"))
    assert {names[1]: files[names[1]]} == house.files("org/some-GGUF")
    house.wait(house.start("org/some-GGUF@Q8_0"))
    assert set(names[1:]) == set(house.files("org/some-GGUF"))
    house.wait(house.start("org/some-GGUF", allow_patterns=["*Q2*"]))
    assert set(names) == set(house.files("org/some-GGUF"))


def test_what_is_here_is_not_fetched_again(house: House) -> None:
    """It is verified and found to be all there."""
    house.hub.add("org/twice", mlx_files(SIZE))
    assert "completed" == house.wait(house.start("org/twice"))["status"]
    sent = house.hub.sent("model.safetensors")
    row = house.wait(house.start("org/twice"))
    assert ("completed", 100.0) == (row["status"], row["progress_percent"])
    assert sent == house.hub.sent("model.safetensors")


REFUSED = [
    ({"repo_id": "org/none"}, (404, "not_found", "model-not-found")),
    ({"repo_id": "org/plain2", "revision": "v9"}, (404, "not_found", "model-not-found")),
    ({"repo_id": "org/pickles"}, (422, "model_unsupported", "model_unsupported")),
    ({"repo_id": "../../etc"}, (400, "invalid-request", "invalid-request")),
    ({"repo_id": "a/b/c"}, (400, "invalid-request", "invalid-request")),
    ({"repo_id": "org/plain2", "allow_patterns": ["*.x"]}, (400,) + ("invalid-request",) * 2),
    ({"repo_id": "org/plain2", "allow": ["*"]}, (400, "invalid-request", "invalid-request")),
    ({}, (400, "invalid-request", "invalid-request")),
]


@pytest.mark.parametrize(("fields", "expected"), REFUSED)
def test_what_cannot_be_downloaded_says_why(
    house: House, fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    """At once, with a status that no client repeats."""
    house.hub.add("org/plain2", mlx_files(1000))
    house.hub.add("org/pickles", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert expected == codes(post(house.daemon, "/admin/models/download", **fields))


def test_a_load_of_what_no_hub_has_is_not_found(house: House) -> None:
    """One answer tells of both places."""
    reply = post(house.daemon, "/admin/models/load", model_id="org/none")
    assert (404, "not_found", "model-not-found") == codes(reply)
    assert "not on disk" in reply.json()["error"]["message"]
    assert "no repository" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["progress", "cancel"])
def test_unknown_downloads_are_not_found(house: House, path: str) -> None:
    """Whatever the id looks like."""
    for job_id in ("none", "a%2Fb", ".."):
        with Connection(house.daemon) as connection:
            method = "GET" if path == "progress" else "POST"
            reply = connection.ask(method, f"/admin/models/download/{job_id}/{path}", b"")
        assert 404 == reply.status


def test_an_unknown_token_is_not_found(house: House) -> None:
    """With the code that says what is wrong."""
    fields = {"confirmation_token": "x"}
    reply = post(house.daemon, "/admin/models/load/confirm", **fields)
    assert (404, "not_found", "token_not_found") == codes(reply)


def test_a_download_is_ended_and_goes_on_later(house: House) -> None:
    """Cancelled for lists, failed for who follows it; what came is kept and not sent again."""
    house.hub.add("org/ended", mlx_files(SIZE))
    house.hub.faults.hold_after = 131_072
    house.hub.held.clear()
    house.hub.may_go.clear()
    job_id = house.start("org/ended")
    assert house.hub.held.wait(LIMIT_S)
    assert wait_until(lambda: house.progress(job_id)["downloaded_bytes"] > 131_072)
    rows = {row["path"]: row for row in house.get("/admin/models")["models"]}
    assert "downloading" == rows["org/ended"]["status"]
    [row] = house.get("/admin/models/downloads")["downloads"]
    assert (job_id, "downloading", "main") == (row["download_id"], row["status"], row["revision"])
    assert job_id == house.start("org/ended")  # joined
    with Connection(house.daemon) as connection:
        deletion = connection.ask("DELETE", "/admin/models/org/ended", b"")
    assert (409, "conflict", "model_in_use") == codes(deletion)
    cancelled = post(house.daemon, f"/admin/models/download/{job_id}/cancel")
    assert "cancelled" == described("DownloadProgress", cancelled)["status"]
    followed = house.progress(job_id)
    assert ("failed", "cancelled") == (followed["status"], followed["error_code"])
    assert [] == house.get("/admin/models/downloads")["downloads"]
    everything = house.get("/admin/models/downloads?include_inactive=true")["downloads"]
    assert "cancelled" in [row["status"] for row in everything if row["download_id"] == job_id]
    assert not (house.home / "models/org/ended").exists()
    house.hub.faults.hold_after = None
    house.hub.may_go.set()
    before = house.hub.sent("model.safetensors")
    assert job_id == house.start("org/ended")
    assert "completed" == house.wait(job_id)["status"]
    assert SIZE > house.hub.sent("model.safetensors") - before
    assert mlx_files(SIZE)["model.safetensors"] == house.files("org/ended")["model.safetensors"]


def test_what_a_failed_download_left_can_be_deleted(house: House) -> None:
    """It is listed as incomplete, and gone afterwards."""
    house.hub.add("org/bad", {**mlx_files(SIZE), "model-b.safetensors": weights(5000)})
    house.hub.faults.garbled = {"model.safetensors"}
    row = house.wait(house.start("org/bad"))
    assert ("failed", "checksum_mismatch") == (row["status"], row["error_code"])
    assert not (house.home / "models/org/bad").exists()
    rows = {row["path"]: row for row in house.get("/admin/models")["models"]}
    assert "incomplete" == rows["org/bad"]["status"]
    house.hub.faults.garbled = set()
    with Connection(house.daemon) as connection:
        reply = connection.ask("DELETE", "/admin/models/org%2Fbad", b"")
    assert (200, "org/bad") == (reply.status, reply.json()["model_id"])
    assert reply.json()["freed_bytes"] >= 5000
    assert [] == [path for path in (house.home / "models/org").iterdir() if "bad" in path.name]


def test_a_gated_repository_says_what_helps(house: House) -> None:
    """With a code of its own, and nothing that a client would take for its own key."""
    house.hub.faults.api_statuses = [(403, {"X-Error-Code": "GatedRepo"})]
    reply = post(house.daemon, "/admin/models/download", repo_id="org/gated")
    assert (403, "repository_gated", "repository_gated") == codes(reply)
    assert "HF_TOKEN" in reply.json()["error"]["message"]


def test_two_run_and_a_third_waits(house: House) -> None:
    """In the order in which they came, until more may run."""
    for index in range(3):
        house.hub.add(f"org/many{index}", mlx_files(SIZE + index))
    with house.hub_that_holds(65_536):
        jobs = [house.start(f"org/many{index}") for index in range(3)]
        for job_id in jobs[:2]:
            house.wait(job_id, "downloading")
        assert "pending" == house.progress(jobs[2])["status"]
        assert 3 == house.get("/admin/models/downloads")["count"]
        with house.settings("max_parallel: 3"):
            house.wait(jobs[2], "downloading")
    assert ["completed"] * 3 == [house.wait(job_id)["status"] for job_id in jobs]


def test_events_tell_of_downloads(house: House) -> None:
    """By name, with the fields of a progress row."""
    house.hub.add("org/told", mlx_files(SIZE))
    with Connection(house.daemon) as listener:
        listener.send(b"GET /admin/events HTTP/1.1\r\nHost: lmx\r\n\r\n")
        listener.read_head()
        job_id = house.start("org/told")
        data = b""
        chunks = listener.iterate_chunks()
        while b"event: download_completed" not in data:
            data += next(chunks)
        data += next(chunks) if not data.endswith(b"\n\n") else b""
    lines = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    [done] = [event for event in events if event["type"] == "download_completed"]
    assert (job_id, 100.0, "completed") == (
        done["download_id"],
        done["progress_percent"],
        done["status"],
    )


def test_a_full_disk_is_refused_before_anything_is_fetched(house: House) -> None:
    """With the code on which no client unloads models, for a load and for a download."""
    house.hub.add("org/large", mlx_files(SIZE))
    fetched = len(house.hub.asked)
    with house.settings("keep_free_gb: 99999"):
        for path, fields in (
            ("/admin/models/download", {"repo_id": "org/large"}),
            ("/admin/models/load", {"model_id": "org/large"}),
        ):
            reply = post(house.daemon, path, **fields)
            assert (507, "storage-full", "storage-full") == codes(reply)
        assert fetched == len(house.hub.asked)


def test_downloads_can_be_switched_off(house: House) -> None:
    """No hub is asked, and an absent model is just absent."""
    asked = house.hub.question_count
    with house.settings("enabled: false"):
        reply = post(house.daemon, "/admin/models/download", repo_id="org/name")
        assert (403, "downloads_disabled", "downloads_disabled") == codes(reply)
        reply = post(house.daemon, "/admin/models/load", model_id="org/name", auto_download=True)
        assert (404, "not_found", "model-not-found") == codes(reply)
        assert asked == house.hub.question_count
