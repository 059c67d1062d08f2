"""GGUF to MLX: the numbers survive, the tokens survive, and nothing half-made is left behind."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_model, load_tokenizer
from tokenizers import Tokenizer

from lmx.catalog.manifest import Origin, file_sha256, is_complete, read_manifest
from lmx.engines.mlx.gguf_convert import convert_gguf
from lmx.engines.mlx.gguf_source import GgufSource
from lmx.engines.mlx.gguf_tokenizer import build_tokenizer
from lmx.errors import CorruptModel, ImportFailed, LmxError, UnsupportedModel
from tests.tiny_gguf import CONTROLS, HEADS, LAYERS, TEMPLATE, TOKENS, WIDTH, TinyLlama

HARD_TEXTS = [
    "",
    " leading and trailing ",
    "12345 and 6.7e-8",
    "naïve café, ÄÖÜß",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "def f(x):\n\treturn x ** 2\r\n\n",
    "don't I'll WE'VE",
    "مرحبا بالعالم",
    "\x00 \x7f ²½Ⅷ٣",
]


def convert(model: TinyLlama, directory: Path, dtype: str = "float32") -> Path:
    """Write the GGUF file, convert it, return the model directory."""
    source = model.write(directory / "tiny.gguf")
    target = directory / "models" / "tiny"
    convert_gguf(source, target, dtype=dtype, on_progress=lambda _done, _total: None)
    return target


def saved_weights(target: Path) -> dict[str, mx.array]:
    """The weights of a model directory as MLX reads them."""
    saved = mx.load(str(target / "model.safetensors"))
    assert isinstance(saved, dict)
    return saved


@cache
def tokenizer_of(pre: str) -> Tokenizer:
    """The tokenizer of a tiny model with this pre-tokenizer."""
    with TemporaryDirectory() as directory:
        path = TinyLlama(pre=pre).write(Path(directory) / "tiny.gguf")
        return build_tokenizer(GgufSource(path))


class TestWeights:
    def test_mlx_lm_loads_it_with_tied_embeddings(self, tmp_path: Path) -> None:
        """The directory loads as a llama of the same sizes, and a tied model has no head."""
        model, config = load_model(convert(TinyLlama(), tmp_path))
        assert LAYERS == len(model.layers)
        assert (len(TOKENS), WIDTH) == model.model.embed_tokens.weight.shape
        assert config["tie_word_embeddings"] is True
        logits = model(mx.array([[5, 6, 7]]))
        assert (1, 3, len(TOKENS)) == logits.shape
        assert mx.isfinite(logits).all().item()

    def test_rotary_rows_come_back_in_their_first_order(self, tmp_path: Path) -> None:
        """Query and key rows, which llama.cpp interleaves, are as the model was trained."""
        tiny = TinyLlama()
        saved = saved_weights(convert(tiny, tmp_path))
        for short, long in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")):
            expected = tiny.weights[f"blk.1.{short}.weight"]
            actual = np.array(saved[f"model.layers.1.self_attn.{long}.weight"])
            np.testing.assert_array_equal(expected, actual)

    def test_an_output_projection_of_its_own_is_kept(self, tmp_path: Path) -> None:
        """An untied model gets a head and says so in its configuration."""
        tiny = TinyLlama().untied()
        target = convert(tiny, tmp_path)
        saved = saved_weights(target)
        np.testing.assert_array_equal(
            tiny.weights["output.weight"], np.array(saved["lm_head.weight"])
        )
        assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_values_are_rounded_as_mlx_rounds_them(self, tmp_path: Path, dtype: str) -> None:
        """Each type holds exactly what MLX's own conversion of the same values gives."""
        tiny = TinyLlama()
        saved = saved_weights(convert(tiny, tmp_path, dtype))
        kind = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[dtype]
        expected = mx.array(tiny.weights["token_embd.weight"]).astype(kind)
        actual = saved["model.embed_tokens.weight"]
        assert expected.dtype == actual.dtype
        assert mx.array_equal(expected, actual).item()

    def test_quantized_tensors_are_dequantized(self, tmp_path: Path) -> None:
        """An 8-bit file gives the values back to within its own precision."""
        tiny = TinyLlama(quantized=True)
        saved = saved_weights(convert(tiny, tmp_path))
        expected = tiny.weights["blk.0.attn_q.weight"]
        actual = np.array(saved["model.layers.0.self_attn.q_proj.weight"])
        np.testing.assert_allclose(expected, actual, atol=np.abs(expected).max() / 100)


class TestTokenizer:
    @pytest.mark.parametrize("text", HARD_TEXTS)
    @pytest.mark.parametrize("pre", ["smollm", "gpt-2", "default"])
    def test_hard_texts_survive(self, pre: str, text: str) -> None:
        """Encoding and decoding gives the text back, byte for byte."""
        tokenizer = tokenizer_of(pre)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert text == tokenizer.decode(ids, skip_special_tokens=False)

    @given(st.text())
    def test_any_text_survives(self, text: str) -> None:
        """No text is lost or changed by the tokenizer."""
        tokenizer = tokenizer_of("smollm")
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert text == tokenizer.decode(ids, skip_special_tokens=False)

    @pytest.mark.parametrize(
        ("pre", "expected"),
        [
            ("smollm", ["a", "Ġ", "1", "2", "3", "4", "5", "!"]),
            ("gpt-2", ["a", "Ġ12345", "!"]),
            ("default", ["a", "Ġ", "123", "45", "!"]),
        ],
    )
    def test_numbers_are_split_as_the_name_demands(self, pre: str, expected: list[str]) -> None:
        """Each pre-tokenizer cuts digits the way llama.cpp does under that name."""
        splitter = tokenizer_of(pre).pre_tokenizer
        assert splitter is not None
        assert expected == [piece for piece, _ in splitter.pre_tokenize_str("a 12345!")]

    def test_merges_and_control_tokens_are_single_ids(self) -> None:
        """A merged word and each control token are one id, at their place in the file."""
        tokenizer = tokenizer_of("smollm")
        assert [TOKENS.index("hello")] == tokenizer.encode("hello").ids
        assert [0, 1, 2] == [tokenizer.encode(token).ids[0] for token in CONTROLS]

    def test_mlx_lm_finds_template_and_end_ids(self, tmp_path: Path) -> None:
        """The chat template travels, and every end of a turn ends generation."""
        target = convert(TinyLlama(), tmp_path)
        tokenizer = load_tokenizer(target)
        assert TEMPLATE == tokenizer.chat_template
        generation = json.loads((target / "generation_config.json").read_text())
        assert [2, 0] == generation["eos_token_id"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "error", "named"),
        [
            (TinyLlama(architecture="gemma3"), UnsupportedModel, "gemma3"),
            (TinyLlama(pre="tekken"), UnsupportedModel, "tekken"),
            (TinyLlama().without("blk.1.ffn_up.weight"), CorruptModel, "blk.1.ffn_up.weight"),
            (
                TinyLlama().with_tensor("rope_freqs.weight", np.ones(8, np.float32)),
                UnsupportedModel,
                "rope_freqs.weight",
            ),
            (
                TinyLlama().with_tensor("output_norm.weight", np.ones(HEADS, np.float32)),
                CorruptModel,
                "output_norm.weight",
            ),
            (
                TinyLlama().with_tensor("output_norm.weight", np.full(WIDTH, np.nan, np.float32)),
                CorruptModel,
                "output_norm.weight",
            ),
        ],
    )
    def test_what_cannot_be_converted_is_named(
        self, tmp_path: Path, model: TinyLlama, error: type[LmxError], named: str
    ) -> None:
        """A refusal names its reason and leaves nothing behind."""
        with pytest.raises(error, match=named):
            convert(model, tmp_path)
        assert [] == list((tmp_path / "models").glob("*"))

    @pytest.mark.parametrize("kept", [0, 3, 4, 20, 1000, 9000, -1])
    def test_a_truncated_file_is_corrupt(self, tmp_path: Path, kept: int) -> None:
        """A file cut anywhere, in its header or its last byte, is refused as damaged."""
        path = TinyLlama().write(tmp_path / "whole.gguf")
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(CorruptModel):
            convert_gguf(
                cut, tmp_path / "out", dtype="float32", on_progress=lambda _done, _total: None
            )
        assert not (tmp_path / "out").exists()

    def test_a_directory_of_someone_else_is_not_replaced(self, tmp_path: Path) -> None:
        """A directory without our manifest at the target is refused and left as it was."""
        (tmp_path / "models" / "tiny").mkdir(parents=True)
        (tmp_path / "models" / "tiny" / "notes.txt").write_text("mine")
        with pytest.raises(ImportFailed, match="move it away"):
            convert(TinyLlama(), tmp_path)
        assert "mine" == (tmp_path / "models" / "tiny" / "notes.txt").read_text()


class TestAtomicity:
    def test_a_crash_leaves_no_target_and_the_next_run_succeeds(self, tmp_path: Path) -> None:
        """A process killed while it writes weights leaves only litter, which is then removed."""
        source = TinyLlama().write(tmp_path / "tiny.gguf")
        target = tmp_path / "models" / "tiny"
        program = (
            "import os, signal, sys, pathlib\n"
            "from lmx.engines.mlx.gguf_convert import convert_gguf\n"
            "die = lambda done, total: done and os.kill(os.getpid(), signal.SIGKILL)\n"
            "source, target = map(pathlib.Path, sys.argv[1:])\n"
            "convert_gguf(source, target, dtype='float32', on_progress=die)\n"
        )
        killed = subprocess.run(
            [sys.executable, "-c", program, str(source), str(target)], check=False
        )
        assert -9 == killed.returncode
        assert not target.exists()
        assert 1 == len(list(target.parent.iterdir()))
        convert_gguf(source, target, dtype="float32", on_progress=lambda _done, _total: None)
        assert [target] == list(target.parent.iterdir())
        assert is_complete(target, "float32")

    def test_another_dtype_replaces_the_earlier_import(self, tmp_path: Path) -> None:
        """Converting again in another type exchanges the directory and leaves no second one."""
        target = convert(TinyLlama(), tmp_path)
        assert not is_complete(target, "bfloat16")
        convert_gguf(
            tmp_path / "tiny.gguf",
            target,
            dtype="bfloat16",
            on_progress=lambda _done, _total: None,
        )
        assert is_complete(target, "bfloat16")
        assert [target] == list(target.parent.iterdir())

    def test_the_manifest_tells_where_the_model_came_from(self, tmp_path: Path) -> None:
        """It records the source's digest, and a file cut later makes the import incomplete."""
        target = convert(TinyLlama(), tmp_path)
        manifest = read_manifest(target)
        assert manifest is not None
        source = tmp_path / "tiny.gguf"
        assert Origin("gguf", "tiny.gguf", file_sha256(source)) == manifest.origin
        assert is_complete(target)
        weights = target / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert not is_complete(target)

    def test_progress_ends_with_everything_done(self, tmp_path: Path) -> None:
        """Reported bytes only grow, and the last report is the whole."""
        reports: list[tuple[int, int]] = []
        source = TinyLlama().write(tmp_path / "tiny.gguf")
        convert_gguf(
            source,
            tmp_path / "out",
            dtype="float32",
            on_progress=lambda done, total: reports.append((done, total)),
        )
        assert sorted(reports) == reports
        assert reports[-1][0] == reports[-1][1]
