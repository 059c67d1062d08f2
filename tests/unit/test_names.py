"""Names resolve to the model that was meant, or to none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.catalog.names import resolve_name

LOADED = {
    "mlx-community/Qwen3-30B-A3B-4bit": (),
    "SmolLM2-135M-Instruct": ("demo",),
    "bge_m3": (),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlx-community/Qwen3-30B-A3B-4bit", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("demo", "SmolLM2-135M-Instruct"),
        ("MLX-Community/qwen3-30b-a3b-4BIT", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("mlx community qwen3 30b a3b 4bit", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("Qwen3-30B-A3B-4bit", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("Qwen/Qwen3-30B-A3B-4bit", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("qwen3-30b-a3b", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("Qwen/Qwen3-30B-A3B", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("smollm2-135m-instruct-Q8_0", "SmolLM2-135M-Instruct"),
        ("SmolLM2-135M-Instruct-MLX-bf16", "SmolLM2-135M-Instruct"),
        ("BGE-M3", "bge_m3"),
        ("", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("auto", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("current", "mlx-community/Qwen3-30B-A3B-4bit"),
        ("Demo", None),
        ("gpt-4o", None),
        ("qwen3", None),
        ("/", None),
        ("---", None),
    ],
)
def test_spellings(name: str, expected: str | None) -> None:
    """Case, punctuation, owner and quantisation may differ; the model's own name may not."""
    assert expected == resolve_name(name, LOADED)


def test_two_candidates_resolve_nothing() -> None:
    """A short name that fits two models is no name."""
    models: dict[str, tuple[str, ...]] = {"a/Qwen3-4bit": (), "a/Qwen3-8bit": ()}
    assert None is resolve_name("Qwen3", models)
    assert "a/Qwen3-8bit" == resolve_name("qwen3-8BIT", models)


@pytest.mark.parametrize("name", ["org/qwen3", "Qwen3:q4_k_m", "org/Qwen3@Q4_K_M", "qwen3-4bit"])
def test_a_chosen_quantisation_may_be_left_out(name: str) -> None:
    """What follows ``@`` or ``:`` is a quantisation like any other."""
    for model_id in ("org/Qwen3@q4_k_m", "org/Qwen3@ud_q4_k_xl"):
        assert model_id == resolve_name(name, {model_id: (), "org/other": ()})


def test_an_exact_alias_beats_a_close_id() -> None:
    """What somebody named on purpose comes before what looks alike."""
    models = {"The-Model": (), "other": ("the-model",)}
    assert "other" == resolve_name("the-model", models)


@pytest.mark.parametrize("name", ["auto", "", "x"])
def test_nothing_loaded_resolves_nothing(name: str) -> None:
    """Without models there is no model."""
    assert None is resolve_name(name, {})


@pytest.mark.parametrize(
    ("name", "loaded"), [("模型乙", "模型甲"), ("!!!", "---"), ("模型", "abc"), ("café", "caf")]
)
def test_letters_beyond_ascii_count(name: str, loaded: str) -> None:
    """Names that differ only in letters outside ASCII are different names."""
    assert None is resolve_name(name, {loaded: ()})


NAMES = st.text(min_size=1, max_size=12) | st.from_regex(r"[a-z]{1,3}/[A-Za-z]{1,3}-(4|8)bit")


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=2), max_size=4), NAMES)
def test_only_known_models_come_out(models: dict[str, list[str]], name: str) -> None:
    """The answer is a known id or nothing, and an exact id is always itself."""
    found = resolve_name(name, models)
    assert found is None or found in models
    for model_id in models.keys() - {"auto", "current"}:
        aliased = any(model_id in aliases for aliases in models.values())
        assert aliased or model_id == resolve_name(model_id, models)
