"""What a person may write where a model is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.catalog.embedded import DEMO, EMBEDDER
from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "demo",
            ModelSpec(DEMO.name, "embedded", "demo", ("demo",), purpose="generation"),
        ),
        (
            "embedder",
            ModelSpec(EMBEDDER.name, "embedded", "embedder", ("embedder",), purpose="embedding"),
        ),
        ("all-MiniLM-L6-v2", ModelSpec("all-MiniLM-L6-v2", "id", "all-MiniLM-L6-v2")),
        ("fake:x", ModelSpec("x", "fake", "")),
        ("fake:x?tokens=3&text=a?b", ModelSpec("x", "fake", "tokens=3&text=a?b")),
        ("/m/Tiny.Q8_0.gguf", ModelSpec("Tiny.Q8_0", "gguf", "/m/Tiny.Q8_0.gguf")),
        ("tiny.GGUF", ModelSpec("tiny", "gguf", "tiny.GGUF")),
        ("m/x-00002-of-00003.gguf", ModelSpec("x", "gguf", "m/x-00002-of-00003.gguf")),
        ("/models/Qwen3-4bit", ModelSpec("Qwen3-4bit", "directory", "/models/Qwen3-4bit")),
        ("./qwen/", ModelSpec("qwen", "directory", "./qwen/")),
        ("~/m/qwen", ModelSpec("qwen", "directory", "~/m/qwen")),
        ("../qwen", ModelSpec("qwen", "directory", "../qwen")),
        ("org/Qwen3-4bit", ModelSpec("org/Qwen3-4bit", "id", "org/Qwen3-4bit")),
        ("  org/name \n", ModelSpec("org/name", "id", "org/name")),
        ("Demo", ModelSpec("Demo", "id", "Demo")),
        ("org/m@q4_k_m", ModelSpec("org/m@q4_k_m", "id", "org/m", variant="q4_k_m")),
        (
            "org/m:Q4_K_M",
            ModelSpec("org/m@q4_k_m", "id", "org/m", ("org/m:Q4_K_M",), variant="q4_k_m"),
        ),
        ("~/m@Q8_0", ModelSpec("m@q8_0", "directory", "~/m", variant="q8_0")),
        ("org/m@4bit", ModelSpec("org/m@4bit", "id", "org/m@4bit")),
        ("@q4_k_m", ModelSpec("@q4_k_m", "id", "@q4_k_m")),
    ],
)
def test_forms(text: str, expected: ModelSpec) -> None:
    """Each form names its kind, its source and the id under which it is served."""
    assert expected == parse_spec(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", "gguf"),
        ("embedder", "gguf"),
        ("fake:x", "auto"),
        ("a.gguf", "gguf"),
        ("./m", "gguf"),
        ("org/m", "gguf"),
    ],
)
def test_a_backend_is_kept(text: str, expected: str) -> None:
    """The format asked for is the spec's; a fake model has none."""
    assert expected == parse_spec(text, "gguf").backend


@pytest.mark.parametrize("text", ["", "  ", "fake:", "fake:?tokens=3"])
def test_a_model_without_a_name_is_refused(text: str) -> None:
    """An empty name is an `InvalidRequest` about ``model``."""
    with pytest.raises(InvalidRequest) as caught:
        parse_spec(text)
    assert "model" == caught.value.param


@given(
    st.text(max_size=20)
    | st.sampled_from(["/", "./", "../", "~", ".gguf", "~/", "a/..", "/@q8_0", "a/.gguf"])
)
def test_any_text_is_a_spec_with_an_id_or_refused(text: str) -> None:
    """Whatever is written, the id is never empty and nothing but `InvalidRequest` is raised."""
    try:
        spec = parse_spec(text)
    except InvalidRequest:
        return
    assert spec.id
