"""One row per model on disk: what a list of models shows. Plain values.

Kept apart from the scan that makes the rows, so that whoever shows them needs nothing of it.
"""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from lmx.protocol.values import Purpose

Format = Literal["mlx", "gguf"]
Status = Literal["complete", "incomplete", "unreadable", "downloading"]


class InventoryRow(Struct, frozen=True, kw_only=True):
    """A model on disk, or what is there of one.

    Attributes:
        id: What to ask for; `lmx.catalog.locate` finds `path` by it, where it is a model.
        path: The MLX directory, the GGUF file or its first part; of a repository in the Hugging
            Face cache without a main revision, the repository.
        format: How it is stored.
        size_bytes: Of all its files on disk; contents that several names share count once.
        modified_at: When the newest of them was written, in seconds since 1970.
        status: ``downloading`` is incomplete and still growing.
        reason: Why it is not complete; empty if it is.
        quantisation: Such as ``4bit``, ``Q4_K_M`` or ``bfloat16``; or empty.
        architecture: Such as ``qwen3``; or empty.
        parameter_count: As its files say, or about as many as its size tells; or `None`.
        context_tokens: Context it was trained with; or `None`.
        purpose: ``generation``, ``embedding`` or ``reranking``.
    """

    id: str
    path: Path
    format: Format
    size_bytes: int
    modified_at: float
    status: Status = "complete"
    reason: str = ""
    quantisation: str = ""
    architecture: str = ""
    parameter_count: int | None = None
    context_tokens: int | None = None
    purpose: Purpose = "generation"


class Scan(Struct, frozen=True):
    """What is on disk.

    Attributes:
        rows: Sorted by id.
        problems: Sentences about folders that could not be looked at.
    """

    rows: tuple[InventoryRow, ...]
    problems: tuple[str, ...]
