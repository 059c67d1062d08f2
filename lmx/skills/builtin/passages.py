"""Documents cut into passages, for ``search_documents``. Runs in a contained process.

A passage is a few paragraphs, short enough for an embedding model to read whole. It begins and ends
between lines where it can, and two that follow each other share a few lines.
"""

from pathlib import Path
from typing import Any

from lmx.skills.builtin.html_text import html_to_text

PASSAGE_CHARACTERS = 1000
SHARED_CHARACTERS = 150
SNIFFED_BYTES = 8192
HTML = frozenset({".html", ".htm", ".xhtml"})


def read_passages(paths: list[str], max_bytes: int) -> list[dict[str, Any]]:
    """The passages of files, in the order of the files.

    Args:
        paths: Regular files.
        max_bytes: Of each; what is beyond is left out.

    Returns:
        ``passages``, each a line number from 1 and a text; none for what is no text.
    """
    return [{"path": path, "passages": _read(Path(path), max_bytes)} for path in paths]


def _read(path: Path, max_bytes: int) -> list[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes)
    except OSError:
        return []
    if b"\0" in data[:SNIFFED_BYTES]:
        return []
    text = data.decode(errors="replace")
    if path.suffix.lower() in HTML:
        title, body = html_to_text(text)
        text = f"{title}\n{body}" if title else body
    return cut(text)


def cut(text: str) -> list[tuple[int, str]]:
    """Passages with the numbers of their first lines."""
    passages: list[tuple[int, str]] = []
    lines: list[tuple[int, str]] = []
    size = 0
    for number, line in enumerate(text.splitlines(), 1):
        for start in range(0, max(1, len(line)), PASSAGE_CHARACTERS):
            piece = line[start : start + PASSAGE_CHARACTERS]
            if size + len(piece) > PASSAGE_CHARACTERS:
                passages += _joined(lines)
                lines = _tail(lines)
                size = sum(len(kept) + 1 for _, kept in lines)
                if size + len(piece) > PASSAGE_CHARACTERS:
                    lines, size = [], 0
            lines.append((number, piece))
            size += len(piece) + 1
    return passages + _joined(lines)


def _joined(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """One passage of lines, or none if they are blank."""
    full = [(number, line) for number, line in lines if line.strip()]
    if not full:
        return []
    first = full[0][0]
    text = "\n".join(line for number, line in lines if first <= number <= full[-1][0])
    return [(first, text)]


def _tail(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The last lines, as many as the next passage shares."""
    size = 0
    for count, (_, line) in enumerate(reversed(lines)):
        size += len(line) + 1
        if size > SHARED_CHARACTERS:
            return lines[len(lines) - count :]
    return []
