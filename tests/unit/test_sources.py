"""From a spec to what a worker loads; files that no worker should see are refused here."""

from pathlib import Path

import pytest
import trio

from lmx.catalog.specs import parse_spec
from lmx.daemon.sources import Source, find_source
from lmx.errors import CorruptModel, LoadError, UnsupportedModel
from tests.raw_gguf import RawGguf, entry, tensor, write_split


async def test_a_gguf_file_goes_to_llama(tmp_path: Path) -> None:
    """Found by path, by directory or by id, a file is loaded as it is."""
    path = RawGguf().write(tmp_path / "models/org/m/m-Q8_0.gguf")
    expected = Source("llama", str(path))
    for text in (str(path), str(path.parent), "org/m", "org/m@q8_0"):
        assert expected == await find_source(parse_spec(text), tmp_path)
        assert expected == await find_source(parse_spec(text, "gguf"), tmp_path)


async def test_any_part_of_a_split_file_means_the_first(tmp_path: Path) -> None:
    """llama.cpp is given the first part and finds the others."""
    parts = write_split(tmp_path, "m", 3)
    expected = Source("llama", str(parts[0]))
    with trio.fail_after(10):
        assert expected == await find_source(parse_spec(str(parts[2])), tmp_path)


async def test_a_directory_goes_to_mlx(tmp_path: Path) -> None:
    """An MLX directory is loaded as it is."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    with trio.fail_after(10):
        found = await find_source(parse_spec(str(tmp_path)), tmp_path)
    assert Source("mlx", str(tmp_path)) == found


async def test_a_fake_model_needs_no_files(tmp_path: Path) -> None:
    """Whatever the backend, a fake model is its query string."""
    with trio.fail_after(10):
        found = await find_source(parse_spec("fake:x?tokens=3", "gguf"), tmp_path)
    assert Source("fake", "tokens=3") == found


def file_of(architecture: str, tensor_name: str = "token_embd.weight") -> RawGguf:
    """A model of that architecture with one tensor."""
    return RawGguf(
        entries=(entry("general.architecture", architecture),), tensors=(tensor(tensor_name, (8,)),)
    )


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (RawGguf(data_bytes=1), CorruptModel, "31 bytes shorter"),
        (RawGguf(magic=b"PK\3\4"), CorruptModel, "no GGUF file"),
        (file_of("t5"), UnsupportedModel, "encoder with a decoder"),
        (file_of("clip"), UnsupportedModel, "no model"),
    ],
)
async def test_what_no_worker_should_see(
    tmp_path: Path, raw: RawGguf, error: type[LoadError], said: str
) -> None:
    """Damaged files, encoders with a decoder, and files that are no model are refused."""
    path = raw.write(tmp_path / "m.gguf")
    with trio.fail_after(10), pytest.raises(error, match=said) as caught:
        await find_source(parse_spec(str(path)), tmp_path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("raw", "purpose"),
    [
        (file_of("llama"), "generation"),
        (file_of("bert"), "embedding"),
        (file_of("qwen3", "cls.output.weight"), "reranking"),
    ],
)
async def test_a_file_says_what_it_is_for(tmp_path: Path, raw: RawGguf, purpose: str) -> None:
    """So that its worker loads the right kind of engine."""
    path = raw.write(tmp_path / "m.gguf")
    with trio.fail_after(10):
        found = await find_source(parse_spec(str(path)), tmp_path)
    assert purpose == found.purpose


@pytest.mark.parametrize("purpose", ["generation", "embedding", "reranking"])
async def test_a_fake_model_says_what_it_is_for(tmp_path: Path, purpose: str) -> None:
    """In its query string."""
    with trio.fail_after(10):
        found = await find_source(parse_spec(f"fake:x?purpose={purpose}"), tmp_path)
    assert purpose == found.purpose


@pytest.mark.parametrize("word", ["demo", "embedder"])
async def test_an_embedded_model_is_no_gguf_file(tmp_path: Path, word: str) -> None:
    """Asking for one as GGUF is refused before anything is fetched."""
    with trio.fail_after(10), pytest.raises(UnsupportedModel, match=word):
        await find_source(parse_spec(word, "gguf"), tmp_path)
