"""``GET /admin/models/{model}/card`` and ``lmx show``: a model looked at closely."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli_fakes import FakeDaemon, run_lmx
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection
from tests.model_folders import write

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
    "quantization": {"bits": 4, "group_size": 64},
}
TEMPLATE = "{% if tools %}<tool_call>{% endif %}<think></think>"
WEIGHT_BYTES = 450_000


class House(NamedTuple):
    """A daemon, and its home."""

    daemon: Daemon
    home: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with a fake model, and an MLX model on disk that is not loaded."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub")}
    folder = home / "models" / "org" / "Some-1M-4bit"
    write(folder / "config.json", CONFIG)
    write(folder / "model.safetensors", bytes(WEIGHT_BYTES))
    write(folder / "tokenizer_config.json", {"chat_template": TEMPLATE})
    write(home / "models" / "bad" / "config.json", CONFIG)
    write(home / "models" / "bad" / "model.safetensors", bytes(10))
    write(home / "models" / "bad" / "tokenizer_config.json", "{")
    with shared_daemon(home, "fake:x?weight_bytes=1000000", settings=own) as spawned:
        yield House(spawned, home)


def get_card(house: House, name: str) -> tuple[int, Any]:
    """The answer of the route."""
    with Connection(house.daemon) as connection:
        reply = connection.ask("GET", f"/admin/models/{name}/card")
    return reply.status, reply.json()


def test_a_model_on_disk_has_a_card(house: House) -> None:
    """Shape, precision and template from its files; the estimate's parts are its sum."""
    status, card = get_card(house, "org/Some-1M-4bit")
    assert 200 == status
    assert {
        "model_id": "org/Some-1M-4bit",
        "format": "mlx",
        "architecture": "qwen3",
        "parameter_count": 800_000,
        "layer_count": 4,
        "hidden_size": 256,
        "vocabulary_size": 1000,
        "context_length": 2048,
        "quantisation": "4bit",
        "bits_per_weight": 4.5,
        "purpose": "generation",
        "capabilities": ["chat", "completions", "tools", "json-schema", "reasoning"],
        "loaded": None,
    }.items() <= card.items()
    assert {
        "has_tools": True,
        "tool_syntax": "hermes",
        "has_reasoning": True,
        "reasoning_opening": "<think>",
    } == card["template"]
    estimate = card["estimate"]
    parts = estimate["weights_gb"] + estimate["kv_cache_gb"] + estimate["work_gb"]
    assert pytest.approx(estimate["total_gb"], abs=0.002) == parts
    assert 2048 == estimate["context_length"]
    assert estimate["fits"]


def test_a_name_that_comes_close_is_enough(house: House) -> None:
    """As for a load; percent-encoded slashes mean the same."""
    assert (200, "org/Some-1M-4bit") == _id(get_card(house, "some-1m-4bit"))
    assert (200, "org/Some-1M-4bit") == _id(get_card(house, "org%2FSome-1M-4bit"))


def test_a_fake_model_has_a_card_without_files(house: House) -> None:
    """It shows how it is run."""
    status, card = get_card(house, "x")
    assert (200, None, "fake") == (status, card["path"], card["format"])
    assert 0.001 == card["loaded"]["memory_gb"]


def test_what_is_not_there_or_damaged_is_refused(house: House) -> None:
    """404 for a name that means nothing, 422 with the reason for damaged files."""
    status, document = get_card(house, "nowhere/none")
    assert (404, "not_found") == (status, document["code"])
    status, document = get_card(house, "bad")
    assert (422, "corrupt-model") == (status, document["code"])
    assert "chat template" in document["error"]["message"]


def test_show_prints_the_arithmetic(house: House) -> None:
    """Each line says one thing, and the memory is a sum that can be followed."""
    client = FakeDaemon(house.daemon.url)
    outcome = run_lmx("show", "some-1m-4bit", home=house.home, daemon=client)
    assert 0 == outcome.status
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "architecture qwen3, 4 layers, 256 wide, 1,000 tokens in the vocabulary" in lines
    assert "quantisation 4bit (4.5 bits per weight), 450 kB on disk" in lines
    assert "template tools (hermes), thinking between <think> and its end" in lines
    memory = lines[next(i for i, line in enumerate(lines) if line.startswith("memory")) :]
    assert ["weights", "+", "+", "=", "fits:"] == [
        memory[0].split()[-1],
        *(line.split()[0] for line in memory[1:]),
    ]
    as_json = run_lmx("show", "x", "--json", home=house.home, daemon=client)
    assert "x" == json.loads(as_json.out)["model_id"]
    assert 5 == run_lmx("show", "nowhere", home=house.home, daemon=client).status


def _id(answer: tuple[int, Any]) -> tuple[int, str]:
    status, document = answer
    return status, document["model_id"]
