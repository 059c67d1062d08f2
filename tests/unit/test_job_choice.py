"""Which files of a repository are fetched: one model, whole, and nothing that could run."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import pytest

from lmx.errors import InvalidRequest, LmxError, UnsupportedModel
from lmx.jobs.choice import choose_files
from lmx.protocol.jobs import PlanOrder

MLX = ["config.json", "model.safetensors", "tokenizer.json"]
LAYERS = ["modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"]
ODD = ["config.json", "weights.safetensors"]
SPLIT = [f"Q8_0/big-Q8_0-0000{index}-of-00002.gguf" for index in (1, 2)]
GGUF = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "README.md"]


def matches(paths: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Globs, as the hub's client reads them."""
    return [path for path in paths if any(fnmatchcase(path, one) for one in patterns)]


def choose(paths: list[str], **order: object) -> tuple[str, list[str]]:
    """The choice from a repository called org/name."""
    asked = PlanOrder(repo_id="org/name", **order)  # type: ignore[arg-type]
    return tuple(choose_files(paths, asked, matches))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("paths", "order", "expected"),
    [
        (
            [*MLX, "pytorch_model.bin", "README.md", "onnx/model.onnx", "code.py", ".gitignore"],
            {},
            ("mlx", MLX),
        ),
        (
            [*MLX, "consolidated.safetensors", "vocab.txt", "chat_template.jinja", "LICENSE"],
            {},
            ("mlx", sorted([*MLX, "vocab.txt", "chat_template.jinja", "LICENSE"])),
        ),
        (
            [*MLX, *LAYERS, "3_More/note.md"],
            {},
            ("mlx", sorted([*MLX, *LAYERS])),
        ),
        (ODD, {}, ("mlx", ODD)),
        (GGUF, {}, ("gguf", ["m-Q4_K_M.gguf"])),
        (GGUF, {"variant": "q8_0"}, ("gguf", ["m-Q8_0.gguf"])),
        (GGUF, {"ignore_patterns": ("*Q4*",)}, ("gguf", ["m-Q8_0.gguf"])),
        (SPLIT, {}, ("gguf", SPLIT)),
        ([*MLX, *GGUF], {}, ("mlx", MLX)),
        ([*MLX, *GGUF], {"backend": "gguf"}, ("gguf", ["m-Q4_K_M.gguf"])),
        ([*MLX, *GGUF], {"variant": "q2_k"}, ("gguf", ["m-Q2_K.gguf"])),
        (GGUF, {"allow_patterns": ("*Q2*", "*Q8*")}, ("gguf", ["m-Q2_K.gguf", "m-Q8_0.gguf"])),
        ([*MLX, "a.bin"], {"allow_patterns": ("*.json", "*.bin")}, ("mlx", [MLX[0], MLX[2]])),
    ],
)  # fmt: skip
def test_one_model_is_chosen(
    paths: list[str], order: dict[str, object], expected: tuple[str, list[str]]
) -> None:
    """Weights of one format and one quantisation, with what belongs to them."""
    assert expected == choose(paths, **order)


@pytest.mark.parametrize(
    ("paths", "order", "kind", "words"),
    [
        (["config.json", "pytorch_model.bin"], {}, UnsupportedModel, "pickles (pytorch_model.bin)"),
        (["m.bin"], {"allow_patterns": ("*",)}, UnsupportedModel, "pickles (m.bin)"),
        (["README.md"], {}, UnsupportedModel, "holds no model"),
        (["model.safetensors"], {}, UnsupportedModel, "holds no model"),
        (GGUF, {"variant": "q5_0"}, UnsupportedModel, "no GGUF file of Q5_0"),
        (GGUF, {"backend": "mlx"}, UnsupportedModel, "in the format mlx"),
        (MLX, {"backend": "gguf"}, UnsupportedModel, "in the format gguf"),
        (MLX, {"allow_patterns": ("*.gguf",)}, InvalidRequest, "matches"),
        (MLX, {"ignore_patterns": ("*.safetensors",)}, InvalidRequest, "leave no model"),
    ],
)
def test_what_cannot_be_chosen_says_why(
    paths: list[str], order: dict[str, object], kind: type[LmxError], words: str
) -> None:
    """Never the next best thing without a word, and never a pickle."""
    with pytest.raises(kind) as refused:
        choose(paths, **order)
    assert words in refused.value.message
