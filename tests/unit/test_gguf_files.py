"""GGUF files on disk: what their names tell, the parts of split ones, and which one is loaded."""

import random
from pathlib import Path

import pytest

from lmx.catalog.gguf_files import FIRST_READ_BYTES, choose_gguf, read_gguf, read_model
from lmx.catalog.gguf_names import (
    choose_file,
    model_name,
    names_a_model,
    parse_variant,
    quantisation_of,
)
from lmx.errors import CorruptModel, UnsupportedModel
from tests.raw_gguf import ARRAY, STRING, RawGguf, array, entry, string, write_split


@pytest.mark.parametrize(
    ("name", "stem", "quantisation"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M", "q4_k_m"),
        ("dir.x/model.Q8_0.gguf", "model.Q8_0", "q8_0"),
        ("llama-2-7b.ggmlv3.q4_0.GGUF", "llama-2-7b.ggmlv3.q4_0", "q4_0"),
        ("gemma-3-UD-Q4_K_XL.gguf", "gemma-3-UD-Q4_K_XL", "ud_q4_k_xl"),
        ("m-iq3_xxs-00001-of-00003.gguf", "m-iq3_xxs", "iq3_xxs"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b-mxfp4", "mxfp4"),
        ("m-BF16.gguf", "m-BF16", "bf16"),
        ("q4_0-trained-Q6_K.gguf", "q4_0-trained-Q6_K", "q6_k"),
        ("faq8_0.gguf", "faq8_0", ""),
        ("model.gguf", "model", ""),
        ("m-0001-of-0003.gguf", "m-0001-of-0003", ""),
    ],
)
def test_what_a_name_tells(name: str, stem: str, quantisation: str) -> None:
    """The model's name is without suffix and part; the quantisation is the last one in it."""
    assert (stem, quantisation) == (model_name(name), quantisation_of(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.gguf", True),
        ("m-00001-of-00002.gguf", True),
        ("m-00002-of-00002.gguf", False),
        ("mmproj-model-f16.gguf", False),
        ("model.mmproj.gguf", False),
        ("imatrix.gguf", False),
        ("mmprojector-like.gguf", True),
        ("._model.gguf", False),
        ("model.bin", False),
    ],
)
def test_which_names_are_a_models(name: str, expected: bool) -> None:  # noqa: FBT001
    """Projectors, matrices, later parts and other files are none."""
    assert expected == names_a_model(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Q4_K_M", "q4_k_m"), ("ud-q4_k_xl", "ud_q4_k_xl"), ("4bit", None), ("latest", None)],
)
def test_variants(text: str, expected: str | None) -> None:
    """A variant is a quantisation of GGUF files in any case, and nothing else."""
    assert expected == parse_variant(text)


def test_the_order_of_preference() -> None:
    """Of several quantisations the best known one is taken, the unquantised ones last."""
    best = ["Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0", "Q4_0", "IQ1_S", "BF16", "F16", "F32"]
    names = [f"model-{quantisation}.gguf" for quantisation in best]
    random.Random(1).shuffle(names)  # noqa: S311  # the same order every time
    chosen = []
    while (name := choose_file(names)) is not None:
        chosen.append(quantisation_of(name).upper())
        names.remove(name)
    assert best == chosen


def test_a_variant_is_found_or_nothing() -> None:
    """The exact quantisation comes first, then Unsloth's mixture of it; never another one."""
    names = ["m-Q4_K_M.gguf", "m-UD-Q8_0.gguf", "m-Q6_K.gguf", "m-UD-Q6_K.gguf"]
    assert "m-Q6_K.gguf" == choose_file(names, "q6_k")
    assert "m-UD-Q6_K.gguf" == choose_file(names, "ud_q6_k")
    assert "m-UD-Q8_0.gguf" == choose_file(names, "q8_0")
    assert choose_file(names, "q4_k") is None


def test_one_file_of_a_directory(tmp_path: Path) -> None:
    """Files that are no model are passed over, and so are folders that are no quantisation."""
    RawGguf().write(tmp_path / "mmproj-F16.gguf")
    RawGguf().write(tmp_path / "other" / "m-Q4_K_M.gguf")
    (tmp_path / "folder-Q8_0.gguf").mkdir()
    assert choose_gguf(tmp_path) is None
    assert choose_gguf(tmp_path / "absent") is None
    nested = RawGguf().write(tmp_path / "BF16" / "m-BF16.gguf")
    assert nested == choose_gguf(tmp_path)
    first, _ = write_split(tmp_path, "m-Q8_0", 2)
    assert first == choose_gguf(tmp_path)
    assert nested == choose_gguf(tmp_path, "bf16")


def test_a_whole_model(tmp_path: Path) -> None:
    """One file is its own only part."""
    path = RawGguf().write(tmp_path / "m.gguf")
    model = read_model(path)
    assert (path, (path,), path.stat().st_size) == (model.path, model.parts, model.size_bytes)
    assert read_gguf(path) == model.header


def test_a_long_header_is_read_in_pieces(tmp_path: Path) -> None:
    """A vocabulary longer than the first piece is read as far as the header goes."""
    tokens = [string("x" * 1000)] * (4 * FIRST_READ_BYTES // 1000)
    raw = RawGguf().with_entries(entry("tokens", array(STRING, tokens), ARRAY))
    assert "llama" == read_gguf(raw.write(tmp_path / "m.gguf")).architecture


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_stands_for_all(tmp_path: Path, given: int) -> None:
    """Given any part, the whole is found, and its header counts the tensors of all."""
    parts = write_split(tmp_path, "m-Q8_0", 3)
    model = read_model(parts[given])
    assert (parts[0], tuple(parts)) == (model.path, model.parts)
    assert (3, 24, "llama") == (
        model.header.tensor_count,
        model.header.parameter_count,
        model.header.architecture,
    )
    assert sum(part.stat().st_size for part in parts) == model.size_bytes


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """Without one of its parts a model is corrupt."""
    parts = write_split(tmp_path, "m", 3)
    parts[1].unlink()
    with pytest.raises(CorruptModel, match=r"m-00002-of-00003\.gguf is missing"):
        read_model(parts[0])


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    """A part that ends early makes the model corrupt, whichever part was given."""
    parts = write_split(tmp_path, "m", 2)
    parts[1].write_bytes(parts[1].read_bytes()[:-5])
    with pytest.raises(CorruptModel, match=r"m-00002-of-00002\.gguf: .* 5 bytes shorter"):
        read_model(parts[0])


@pytest.mark.parametrize("renamed", ["m.gguf", "m-00001-of-00003.gguf", "m-00003-of-00002.gguf"])
def test_a_part_under_a_wrong_name(tmp_path: Path, renamed: str) -> None:
    """llama.cpp finds parts by name: one that does not fit the header is refused."""
    write_split(tmp_path, "m", 3)
    parts = write_split(tmp_path, "m", 2)
    path = parts[0].rename(tmp_path / renamed)
    with pytest.raises(CorruptModel, match=r"by its name|the name says"):
        read_model(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"general.type": "mmproj"}, "'mmproj'"), ({"general.type": "adapter"}, "'adapter'")],
)
def test_a_file_that_is_no_model(tmp_path: Path, values: dict[str, str], said: str) -> None:
    """A projector or an adapter is sound and yet nothing to load."""
    raw = RawGguf().with_values({**values})
    with pytest.raises(UnsupportedModel, match=said):
        read_model(raw.write(tmp_path / "m.gguf"))


@pytest.mark.parametrize("content", [b"", b"GG", b"<html>not found</html>", b"GGUF" + bytes(8)])
def test_what_is_no_gguf_file(tmp_path: Path, content: bytes) -> None:
    """An empty file and a foreign one are corrupt or unsupported, and named."""
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises((CorruptModel, UnsupportedModel), match=str(path)):
        read_model(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """What the system refuses to read is corrupt, with its reason."""
    with pytest.raises(CorruptModel, match="directory"):
        read_gguf(tmp_path)
    with pytest.raises(CorruptModel, match="No such file"):
        read_gguf(tmp_path / "absent.gguf")
