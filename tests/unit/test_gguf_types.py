"""The tables of GGUF's numbers agree with those who define them."""

import ctypes

import gguf
import pytest

from lmx.catalog.gguf_types import FILE_TYPES, TENSOR_TYPES

# gguf-py gives it the size of an older layout; no file has tensors of it.
DISPUTED = gguf.GGMLQuantizationType.Q8_1


def test_tensor_types_are_those_of_gguf_py() -> None:
    """Numbers, names and block sizes of every type it knows."""
    known = [kind for kind in gguf.GGMLQuantizationType if kind is not DISPUTED]
    expected = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in known}
    assert expected == {number: tuple(TENSOR_TYPES[number]) for number in expected}


def test_file_types_are_those_of_gguf_py() -> None:
    """Numbers and names of every type it knows."""
    expected = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind is not gguf.LlamaFileType.GUESSED
    }
    assert expected == {number: FILE_TYPES[number] for number in expected}


@pytest.mark.gguf
def test_tensor_types_are_those_of_llama_cpp() -> None:
    """The library that loads the files knows these types and no more."""
    llama_cpp = pytest.importorskip("llama_cpp.llama_cpp", exc_type=ImportError)
    library = pytest.importorskip("llama_cpp._ggml").libggml
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_name.restype = ctypes.c_char_p
    expected = {}
    for number in range(llama_cpp.GGML_TYPE_COUNT):
        if size_bytes := library.ggml_type_size(number):  # 0 for types that were removed
            name = library.ggml_type_name(number).decode().upper()
            expected[number] = (name, library.ggml_blck_size(number), size_bytes)
    assert expected == {number: (t.name.upper(), *t[1:]) for number, t in TENSOR_TYPES.items()}
