"""What a model on disk is made of: shape, precision and chat template, from its files alone.

More than a list of models shows, so it is read for one model when somebody asks. Reads files, so it
runs off the event loop.
"""

from pathlib import Path

from msgspec import Struct

from lmx.catalog import mlx_config
from lmx.catalog.chat_template import read_template
from lmx.catalog.facts import read_mlx_facts
from lmx.catalog.gguf_files import read_model
from lmx.catalog.inventory import Format
from lmx.catalog.mlx_files import CONFIG_FILE, loaded_weights, read_config
from lmx.errors import CorruptModel
from lmx.protocol.values import Purpose

BITS_PER_BYTE = 8


class Anatomy(Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        path: Its directory, or its file or first part.
        architecture: Such as ``qwen3``; or empty.
        parameter_count: Of all weights; `None` if it cannot be told.
        layer_count: 0 if it cannot be told; so the two after it.
        hidden_size: Width of the hidden state.
        vocabulary_size: Tokens that it can choose from.
        context_tokens: Context it was trained with; or `None`.
        quantisation: Such as ``4bit``, ``Q4_K_M`` or ``bfloat16``; or empty.
        weight_bytes: Of the weights on disk.
        purpose: What it answers.
        template: Source of its chat template, or `None`.
        special_tokens: As far as its files name them beside the vocabulary.
    """

    path: Path
    format: Format
    architecture: str
    parameter_count: int | None
    layer_count: int
    hidden_size: int
    vocabulary_size: int
    context_tokens: int | None
    quantisation: str
    weight_bytes: int
    purpose: Purpose
    template: str | None
    special_tokens: frozenset[str] = frozenset()

    @property
    def bits_per_weight(self) -> float | None:
        """On disk, with scales and all."""
        if not self.parameter_count:
            return None
        return BITS_PER_BYTE * self.weight_bytes / self.parameter_count


def read_anatomy(path: Path, format_: Format) -> Anatomy:
    """Read a model's files.

    Args:
        path: An MLX directory, or a GGUF file or any part of one.
        format_: Which of the two.

    Raises:
        CorruptModel: They cannot be read, or are no model.
        UnsupportedModel: They are of a kind that is not known here.
    """
    return _read_mlx(path) if format_ == "mlx" else _read_gguf(path)


def _read_mlx(directory: Path) -> Anatomy:
    config = read_config(directory / CONFIG_FILE)
    try:
        files = {entry.name: entry.stat() for entry in directory.iterdir() if entry.exists()}
    except OSError as error:
        raise CorruptModel(f"{directory} cannot be read: {error.strerror}") from error
    facts = read_mlx_facts(str(directory), dict(files))
    part = mlx_config.language_part(config)
    template, special_tokens = read_template(directory)
    return Anatomy(
        path=directory,
        format="mlx",
        architecture=facts.architecture,
        parameter_count=facts.parameter_count,
        layer_count=mlx_config.count(part, "num_hidden_layers", "n_layer", "n_layers"),
        hidden_size=mlx_config.count(part, "hidden_size", "n_embd", "d_model"),
        vocabulary_size=mlx_config.count(part, "vocab_size"),
        context_tokens=facts.context_tokens,
        quantisation=facts.quantisation,
        weight_bytes=sum(files[name].st_size for name in loaded_weights(files)),
        purpose=facts.purpose,
        template=template,
        special_tokens=special_tokens,
    )


def _read_gguf(path: Path) -> Anatomy:
    model = read_model(path)
    header = model.header
    return Anatomy(
        path=model.path,
        format="gguf",
        architecture=header.architecture,
        parameter_count=header.parameter_count or None,
        layer_count=header.block_count,
        hidden_size=header.embedding_length,
        vocabulary_size=header.vocabulary_size,
        context_tokens=header.context_tokens,
        quantisation=header.quantisation,
        weight_bytes=sum(header.bytes_by_type.values()) or model.size_bytes,
        purpose="generation" if header.purpose == "other" else header.purpose,
        template=header.chat_template,
    )
