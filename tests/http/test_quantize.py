"""Quantisations over HTTP: a model gets smaller and still answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from lmx import __version__
from lmx.schema.openapi import openapi_document
from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, wait_until
from tests.tiny_gguf import TinyLlama
from tests.tiny_models import build_tiny_llama

LIMIT_S = 40.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model that can be quantised, and others that cannot."""
    home = tmp_path_factory.mktemp("home")
    models = home / "models"
    build_tiny_llama(models / "org/tiny")
    build_tiny_llama(models / "org/quantised", quantization={"bits": 4, "group_size": 64})
    build_tiny_llama(models / "org/code", model_file="model.py")
    build_tiny_llama(models / "org/odd", hidden_size=48, intermediate_size=48)
    (models / "org/broken").mkdir()
    (models / "org/broken/config.json").write_text('{"model_type": "llama"}')
    (models / "org/broken/model.safetensors").write_bytes(b"no weights")
    (models / "org/file").mkdir()
    TinyLlama().write(models / "org/file/file.gguf")
    return home


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    """A daemon over it."""
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hf")}
    with shared_daemon(home, "fake:x", settings=own) as spawned:
        yield spawned


def start(daemon: Daemon, **fields: Any) -> Reply:
    """Ask for a quantisation."""
    return post(daemon, "/admin/quantize", **fields)


def get(daemon: Daemon, path: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path)
    assert 200 == reply.status, reply.body
    return reply.json()


def wait(daemon: Daemon, reply: Reply) -> Any:
    """A quantisation that has ended."""
    assert 200 == reply.status, reply.body
    path = f"/admin/quantize/{reply.json()['job_id']}"
    assert wait_until(
        lambda: get(daemon, path)["status"] not in {"pending", "running"}, limit_s=LIMIT_S
    )
    return get(daemon, path)


def codes(reply: Reply) -> tuple[int, str, str]:
    """The status and both codes of a refusal."""
    document = reply.json()
    return reply.status, document["code"], document["error"]["code"]


def test_a_model_gets_smaller_and_answers(daemon: Daemon, home: Path) -> None:
    """It is in the inventory under the name of its directory, and can be loaded like any other."""
    reply = start(daemon, source_model="org/tiny", bits=8, mode="symmetric")
    begun = reply.json()
    schema = {**openapi_document(__version__), "$ref": "#/components/schemas/QuantizeRow"}
    validator_for(schema).validate(begun)
    again = start(daemon, model_id="org/tiny", bits=8)
    assert begun["job_id"] == again.json()["job_id"]
    row = wait(daemon, reply)
    place = home / "quantized/tiny-8bit"
    assert ("completed", 100.0, str(place)) == (
        row["status"],
        row["progress_percent"],
        row["output_path"],
    )
    assert (8, 8, 64, "symmetric", "org/tiny") == tuple(
        row[key] for key in ("bits", "target_bits", "group_size", "mode", "model_id")
    )
    size = sum(path.stat().st_size for path in place.iterdir())
    assert (size, True) == (row["output_size_bytes"], row["duration_sec"] > 0)
    plain = (home / "models/org/tiny/model.safetensors").stat().st_size
    assert plain / 2 > (place / "model.safetensors").stat().st_size
    assert {"group_size": 64, "bits": 8, "mode": "affine"} == json.loads(
        (place / "config.json").read_text()
    )["quantization"]
    rows = {row["path"]: row for row in get(daemon, "/admin/models")["models"]}
    assert ("complete", "8bit") == (
        rows["tiny-8bit"]["status"],
        rows["tiny-8bit"]["quantisation"],
    )
    assert 200 == post(daemon, "/admin/models/load", model_id="tiny-8bit").status
    answer = chat(daemon, "tiny-8bit", max_tokens=3)
    assert (200, 3) == (answer.status, answer.json()["usage"]["completion_tokens"])
    assert (409, "conflict", "output_exists") == codes(start(daemon, model_id="org/tiny", bits=8))
    listed = get(daemon, "/admin/quantize")
    assert row["job_id"] in [one["job_id"] for one in listed["jobs"]]
    assert listed["count"] == len(listed["jobs"])


def test_a_place_can_be_named(daemon: Daemon, home: Path) -> None:
    """Below LMX's own folders, or among the models."""
    place = home / "models/org/tiny-small"
    row = wait(daemon, start(daemon, source_model="org/tiny", output_path=str(place)))
    assert ("completed", 4) == (row["status"], row["bits"])
    assert "org/tiny-small" in [row["path"] for row in get(daemon, "/admin/models")["models"]]


BAD = (400, "invalid-request", "invalid-request")
UNSUPPORTED = (422, "model_unsupported", "model_unsupported")
REFUSED = [
    ({"source_model": "org/none"}, (404, "not_found", "model-not-found")),
    ({"source_model": "x"}, UNSUPPORTED),
    ({"source_model": "org/quantised"}, UNSUPPORTED),
    ({"source_model": "org/file"}, UNSUPPORTED),
    ({"source_model": "org/tiny", "output_path": "/elsewhere/out"}, BAD),
    ({"source_model": "org/tiny", "output_path": "../out"}, BAD),
    ({"source_model": "org/tiny", "output_path": "../models/org/tiny"}, BAD),
    ({"source_model": "org/tiny", "bits": 5}, BAD),
    ({"source_model": "org/tiny", "mode": "x"}, BAD),
    ({}, BAD),
]


@pytest.mark.parametrize(("fields", "expected"), REFUSED)
def test_what_cannot_be_quantised_says_why(
    daemon: Daemon, fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    """Before anything begins."""
    assert expected == codes(start(daemon, **fields))


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("org/code", "model_unsupported", "code of its own"),
        ("org/odd", "model_unsupported", "width"),
        ("org/broken", "corrupt-model", "cannot be read"),
    ],
)
def test_what_turns_out_later_is_told(
    daemon: Daemon, home: Path, name: str, code: str, words: str
) -> None:
    """By the job, which leaves nothing behind."""
    row = wait(daemon, start(daemon, source_model=name))
    assert ("failed", code) == (row["status"], row["error_code"]), row
    assert words in row["error"]
    left = [path.name for path in (home / "quantized").glob(f"*{name[4:]}*")]
    assert [] == left


def test_one_runs_and_others_wait_or_are_ended(daemon: Daemon, home: Path) -> None:
    """What waits never begins; what has ended stays as it is."""
    first = start(daemon, source_model="org/tiny", output_path="one")
    second = start(daemon, source_model="org/tiny", output_path="two")
    job_id = second.json()["job_id"]
    reply = post(daemon, f"/admin/quantize/{job_id}/cancel")
    assert {"cancelled": True, "job_id": job_id, "status": "cancelled"} == reply.json()
    assert {"cancelled": False, "job_id": job_id, "status": "cancelled"} == post(
        daemon, f"/admin/quantize/{job_id}/cancel"
    ).json()
    assert "completed" == wait(daemon, first)["status"]
    assert not (home / "quantized/two").exists()


@pytest.mark.parametrize(("method", "path"), [("GET", "none"), ("POST", "none/cancel")])
def test_unknown_jobs_are_not_found(daemon: Daemon, method: str, path: str) -> None:
    """Whatever the route."""
    with Connection(daemon) as connection:
        reply = connection.ask(method, f"/admin/quantize/{path}", b"")
    assert (404, "not_found", "job_not_found") == codes(reply)
