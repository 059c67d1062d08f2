"""The sides of a benchmark over HTTP: LMX and the peer for the model's format.

A side is opened when it is measured and gone when that is over, so that none pays for another.
LMX's home is new in every run and outlives its daemons, so that a cache on disk begins empty and
is found again after a restart.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lmx.config import ENVIRONMENT_PREFIX
from scripts.bench.gguf import Setup
from scripts.bench.servers import Server, lmx_server, mlx_lm_server, xllamacpp_server

LMX, MLX_PEER, GGUF_PEER = "LMX", "mlx_lm.server", "xllamacpp"
GGUF_BATCH_TOKENS = 512  # LMX's own
Measured = TypeVar("Measured")
CONTEXT = "LMX_MODELS__CONTEXT_TOKENS"
DEMO = Path("~/.opta-lmx/models/SmolLM2-135M-Instruct").expanduser()


@dataclass(frozen=True)
class Side:
    """A server to measure.

    Attributes:
        name: For tables.
        model: How requests name the model.
        open: Starts it, ready with the model loaded, until the block is left.
    """

    name: str
    model: str
    open: Callable[[], AbstractContextManager[Server]]

    @property
    def is_lmx(self) -> bool:
        """It is ours."""
        return self.name == LMX


def usable_cores() -> int:
    """CPUs this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gguf_settings(setup: Setup) -> dict[str, str]:
    """LMX's environment for the sizes of the setup."""
    return {
        "LMX_GGUF__THREADS": str(setup.threads),
        "LMX_MODELS__MAX_SEQUENCES": str(setup.sequences),
        CONTEXT: str(setup.context_tokens),
    }


def peer_version(folder: Path | None) -> str:
    """What is installed in the folder of the peer for GGUF."""
    found = importlib.metadata.distributions(path=[str(folder)]) if folder else ()
    versions = [d.version for d in found if d.metadata["Name"] == GGUF_PEER]
    return f"{GGUF_PEER} {versions[0]}" if versions else ""


def add_side_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how LMX is set."""
    parser.add_argument("--model", type=Path, default=DEMO, help="MLX directory")
    parser.add_argument("--gguf", type=Path, help="measure this GGUF file instead")
    parser.add_argument("--peer-dir", type=Path, help="where xllamacpp is installed")
    parser.add_argument("--no-peer", action="store_true", help="measure LMX alone")
    parser.add_argument("--context", type=int, help="most tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=8, help="most sequences at once")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads, GGUF")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of LMX's, such as models.gap_target_ms=300; may be repeated",
    )


def model_of(options: argparse.Namespace) -> Path:
    """The model that is measured."""
    path: Path = options.gguf or options.model
    return path.absolute()


def facts_of(options: argparse.Namespace) -> dict[str, str]:
    """What results are to be found by."""
    return {"engine": "GGUF" if options.gguf else "MLX", "model": model_of(options).name}


@contextmanager
def open_sides(options: argparse.Namespace, *, context_tokens: int) -> Iterator[list[Side]]:
    """LMX and, unless it is left out, the peer, none of them running yet.

    Args:
        options: Of `add_side_arguments`.
        context_tokens: What a sequence needs, for engines whose cache is made whole at load;
            ``--context`` goes before it. MLX models have their own context without that.

    Raises:
        SystemExit: The model is not there, or a setting is none.
    """
    path = model_of(options)
    if not path.exists():
        raise SystemExit(f"{path} does not exist; `lmx import demo` makes the demo model")
    context = options.context or context_tokens
    setup = Setup(str(path), options.threads, context, options.sequences, GGUF_BATCH_TOKENS)
    settings = gguf_settings(setup)
    if options.gguf is None:
        settings = {} if options.context is None else {CONTEXT: str(options.context)}
        settings["LMX_MODELS__MAX_SEQUENCES"] = str(setup.sequences)
    settings |= dict(parse_setting(text) for text in options.setting)
    with tempfile.TemporaryDirectory() as home:
        sides = [Side(LMX, "auto", lambda: lmx_server(Path(home), [str(path)], settings))]
        if not options.no_peer:
            sides += _peer(options, path, setup)
        yield sides


def parse_setting(text: str) -> tuple[str, str]:
    """A setting as its environment variable; `models.gap_target_ms=300` is short for one."""
    key, equals, value = text.partition("=")
    section, dot, name = key.partition(".")
    variable = f"{ENVIRONMENT_PREFIX}{section}__{name}".upper() if dot else key
    if not (equals and variable.startswith(ENVIRONMENT_PREFIX)):
        raise SystemExit(f"--setting {text}: it must be SECTION.KEY=VALUE")
    return variable, value


def _peer(options: argparse.Namespace, path: Path, setup: Setup) -> list[Side]:
    if options.gguf is None:
        return [Side(MLX_PEER, str(path), lambda: mlx_lm_server(path))]
    folder = options.peer_dir
    if folder is None:
        print(
            "Without --peer-dir the peer is left out: python -m pip install --target DIR xllamacpp",
            file=sys.stderr,
        )
        return []
    return [Side(GGUF_PEER, "auto", lambda: xllamacpp_server(setup, folder))]


def measure_sides(sides: list[Side], measure: Callable[[Side], Measured]) -> list[Measured]:
    """What `measure` finds of each side, one after the other.

    A side that fails is left out, and an interrupt ends the run early: what was found of the sides
    before is not lost.
    """
    found = []
    try:
        for side in sides:
            try:
                found.append(measure(side))
            except RuntimeError as error:
                progress(f"{side.name} was not measured: {error}")
    except KeyboardInterrupt:
        progress(f"Interrupted: {len(found)} of {len(sides)} sides were measured")
    return found


def progress(text: str) -> None:
    """A line on standard error, while tables go to standard output."""
    print(text, file=sys.stderr, flush=True)
