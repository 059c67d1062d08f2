"""An engine is imported by name, once, and only the one that is asked for."""

import subprocess
import sys

import pytest

from lmx.engines import import_engine, load_engine
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load

REPORT = """
import sys
from lmx.engines import import_engine
load = import_engine({name!r})
assert callable(load)
print(*(name for name in ("mlx", "llama_cpp") if name in sys.modules))
"""


def imported_by(name: str) -> str:
    """The engine libraries that a fresh interpreter has after importing an engine."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(name=name)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_the_fake_engine_needs_no_library() -> None:
    """What it returns loads its models, as `load_engine` does."""
    assert "" == imported_by("fake")
    load = Load("fake", "text=hi", 4)
    for loaded in (import_engine("fake")(load), load_engine(load)):
        assert ("fake", 4) == (loaded.engine.info.engine, loaded.engine.info.max_sequences)


def test_mlx_comes_alone() -> None:
    """A worker that prepares for MLX imports it, and nothing of llama.cpp."""
    pytest.importorskip("mlx_lm")
    assert "mlx" == imported_by("mlx")


@pytest.mark.parametrize("name", ["", "vllm", "FAKE"])
def test_an_engine_that_is_none(name: str) -> None:
    """An unknown name is refused in both ways of asking."""
    with pytest.raises(UnsupportedModel, match="no engine called"):
        import_engine(name)
    with pytest.raises(UnsupportedModel, match="no engine called"):
        load_engine(Load(name, "", 4))
