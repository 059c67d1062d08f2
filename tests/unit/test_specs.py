"""What a person may write where a model is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.catalog.manifest import DEMO_NAME
from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", ModelSpec(DEMO_NAME, "demo", "demo", ("demo",))),
        ("fake:x", ModelSpec("x", "fake", "")),
        ("fake:x?tokens=3&text=a?b", ModelSpec("x", "fake", "tokens=3&text=a?b")),
        ("/m/Tiny.Q8_0.gguf", ModelSpec("Tiny.Q8_0", "gguf", "/m/Tiny.Q8_0.gguf")),
        ("tiny.GGUF", ModelSpec("tiny", "gguf", "tiny.GGUF")),
        ("/models/Qwen3-4bit", ModelSpec("Qwen3-4bit", "directory", "/models/Qwen3-4bit")),
        ("./qwen/", ModelSpec("qwen", "directory", "./qwen/")),
        ("~/m/qwen", ModelSpec("qwen", "directory", "~/m/qwen")),
        ("../qwen", ModelSpec("qwen", "directory", "../qwen")),
        ("org/Qwen3-4bit", ModelSpec("org/Qwen3-4bit", "id", "org/Qwen3-4bit")),
        ("  org/name \n", ModelSpec("org/name", "id", "org/name")),
        ("Demo", ModelSpec("Demo", "id", "Demo")),
    ],
)
def test_forms(text: str, expected: ModelSpec) -> None:
    """Each form names its kind, its source and the id under which it is served."""
    assert expected == parse_spec(text)


@pytest.mark.parametrize("text", ["", "  ", "fake:", "fake:?tokens=3"])
def test_a_model_without_a_name_is_refused(text: str) -> None:
    """An empty name is an `InvalidRequest` about ``model``."""
    with pytest.raises(InvalidRequest) as caught:
        parse_spec(text)
    assert "model" == caught.value.param


@given(st.text(max_size=20) | st.sampled_from(["/", "./", "../", "~", ".gguf", "~/", "a/.."]))
def test_any_text_is_a_spec_with_an_id_or_refused(text: str) -> None:
    """Whatever is written, the id is never empty and nothing but `InvalidRequest` is raised."""
    try:
        spec = parse_spec(text)
    except InvalidRequest:
        return
    assert spec.id
