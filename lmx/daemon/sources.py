"""From what somebody asked for to what a worker can load; imports what must be imported first.

A child process makes an MLX directory of an embedded model, once, and of a GGUF file that MLX is to
serve; afterwards they are found on disk and no network is asked. Any other GGUF file is read here
as far as its header, so that no worker starts for one that is damaged or of no use.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs

import structlog
import trio
from msgspec import Struct

from lmx.catalog.embedded import EMBEDDED, EmbeddedModel
from lmx.catalog.gguf_files import GgufModel, read_model
from lmx.catalog.locate import locate
from lmx.catalog.mlx_files import mlx_purpose
from lmx.catalog.specs import ModelSpec
from lmx.daemon.imports import EmbeddedImport, GgufImport, ImportProgress, run_import
from lmx.errors import ImportFailed, UnsupportedModel
from lmx.protocol.values import Purpose

# Progress lines in the log, per stage.
PROGRESS_STEP_PERCENT = 20

log = structlog.get_logger("lmx.import")


class Source(Struct, frozen=True):
    """What a worker is told to load.

    Attributes:
        engine: Engine name.
        path: Model directory, GGUF file, or the query string of a fake model.
        purpose: What it answers.
    """

    engine: str
    path: str
    purpose: Purpose = "generation"


async def find_source(spec: ModelSpec, home: Path, folders: Sequence[str] = ()) -> Source:
    """Locate a model, importing it first where needed.

    Args:
        spec: What somebody asked for.
        home: ``LMX_HOME``.
        folders: More places to look in.

    Raises:
        LoadError: It cannot be imported, is damaged, or is of no use.
        ModelNotFound: It is nowhere on disk, or not in the format asked for.

    Cancellation:
        A running import ends; what it downloaded stays for the next try.
    """
    if spec.kind == "fake":
        return Source("fake", spec.source, _fake_purpose(spec.source))
    if spec.kind == "embedded":
        embedded = EMBEDDED[spec.source]
        return Source("mlx", str(await _find_embedded(spec, embedded, home)), embedded.purpose)
    found = await trio.to_thread.run_sync(locate, spec, home, folders)
    if found.format == "mlx":
        if spec.purpose is not None:
            return Source("mlx", str(found.path), spec.purpose)
        read: Purpose = await trio.to_thread.run_sync(mlx_purpose, found.path)
        return Source("mlx", str(found.path), read)
    if spec.backend == "mlx":
        converted = await run_import(home, GgufImport(found.path), _progress_logger(spec.id))
        return Source("mlx", str(converted))
    model = await trio.to_thread.run_sync(read_model, found.path)
    _check_is_one_part(model)
    answers = model.header.purpose
    return Source("llama", str(model.path), "generation" if answers == "other" else answers)


async def _find_embedded(spec: ModelSpec, model: EmbeddedModel, home: Path) -> Path:
    if spec.backend == "gguf":
        raise UnsupportedModel(f"{spec.source} is served by MLX; it is there in no other format")
    if found := await trio.to_thread.run_sync(model.find, home):
        return found
    try:
        return await run_import(home, EmbeddedImport(model.word), _progress_logger(spec.id))
    except ImportFailed as error:
        raise ImportFailed(
            f"{spec.id} is not on this machine yet and could not be fetched; once there is a "
            f"network, `lmx import {model.word}` fetches it: {error.message}"
        ) from error


def _fake_purpose(query: str) -> Purpose:
    said = parse_qs(query).get("purpose", [""])[0]
    known: dict[str, Purpose] = {"embedding": "embedding", "reranking": "reranking"}
    return known.get(said, "generation")


def _check_is_one_part(model: GgufModel) -> None:
    """Refuse an encoder with a decoder."""
    header = model.header
    if header.is_encoder_decoder:
        raise UnsupportedModel(
            f"{model.path}: {header.architecture} is an encoder with a decoder; only models that "
            "are a decoder alone are served"
        )


def _progress_logger(model_id: str) -> Callable[[ImportProgress], None]:
    """Log the first report of a stage and each step of percent after it."""
    reported: dict[str, int] = {}

    def report(progress: ImportProgress) -> None:
        percent = 100 * progress.done // progress.total if progress.total else 0
        step = percent // PROGRESS_STEP_PERCENT
        if step > reported.get(progress.stage, -1):
            reported[progress.stage] = step
            log.info("import", model=model_id, stage=progress.stage, percent=percent)

    return report
