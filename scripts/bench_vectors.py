"""What serving vectors and scores costs: LMX over HTTP, the bare engine, and sentence-transformers.

    python scripts/bench_vectors.py --peer-dir DIR [--model DIR] [--gguf FILE] [--repeats 3]

The sides take turns within one run, each in a process of its own that stays up and has a worker's
environment, on the same texts, which are new in each repeat; quote the ratios, because speeds
belong to the machine of the day. The bare loop turns texts into numbers in batches sorted by
length; how much of its time is spent outside the model is told, too. Several clients with one text
at a time are compared with the bare loop on as many texts at once, which is the batch they could
share at best, and with the peer on one at a time. The cross-encoder has random weights and the
embedder's shape. For a GGUF file the bare loop is llama.cpp's, called directly.

The peer is for measuring only, and kept out of the environment: an environment of its own is made
in ``--peer-dir``, with the torch that pip's settings lead to.
"""

import argparse
import importlib.metadata
import math
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.http_vectors import run_work
from scripts.bench.random_bert import write_cross_encoder
from scripts.bench.report import print_head, print_table
from scripts.bench.servers import PipedEngine, lmx_server, piped_engine
from scripts.bench.sides import GGUF_BATCH_TOKENS, usable_cores
from scripts.bench.vector_work import Outcome, Work, make_query, make_texts

BARE, PEER = "bare loop", "sentence-transformers"
BASE64, FLOAT = "LMX base64", "LMX float"
RERANK = "LMX"
PEER_PACKAGES = ("torch==2.13.0", "sentence-transformers")
# Texts in all, texts of a request, clients: enough of them to take a second or so.
SIZES = ((32, 1, 1), (128, 32, 1), (256, 256, 1), (64, 1, 8))
LOOK_S, BUSY_PERCENT = 3.0, 10.0
LEAST_COSINE = 0.999
MOST_DIFFERENCE = 0.001

Measure = Callable[[Work], Outcome]


@dataclass
class Row:
    """Work of one shape, new in each repeat, and what every side made of it."""

    count: int
    size: int
    clients: int
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the table shows it."""
        return str(self.size) if self.clients == 1 else f"{self.clients} clients, {self.size} each"

    def make(self, repeat: int, *, is_rerank: bool) -> Work:
        """The work of a repeat."""
        texts = make_texts(self.count, seed=1000 * repeat + self.size + self.clients)
        return Work(texts, self.size, self.clients, make_query(seed=repeat) if is_rerank else "")

    def speed(self, side: str) -> str:
        """Median texts per second, or a dash."""
        return _median((o.count / o.seconds for o in self.outcomes.get(side, [])), "{:.1f}")

    def ratio(self, side: str, over: str) -> str:
        """Speed of one side over another's: the median of the ratios within each repeat."""
        pairs = zip(self.outcomes[side], self.outcomes.get(over, []), strict=False)
        return _median((o.count / o.seconds / (p.count / p.seconds) for o, p in pairs), "{:.3f}")


@dataclass(frozen=True)
class Pace:
    """How often everything is measured, and how long each time may wait for a quiet machine."""

    repeats: int
    patience_s: float

    def wait_idle(self) -> None:
        """Wait until other processes leave the cores alone, as long as there is patience."""
        deadline_s = time.monotonic() + self.patience_s
        while time.monotonic() < deadline_s and psutil.cpu_percent(LOOK_S) > BUSY_PERCENT:
            pass


def _median(values: Iterable[float], form: str) -> str:
    found = list(values)
    return form.format(statistics.median(found)) if found else "-"


@contextmanager
def open_lmx(source: Path, sides: Sequence[str]) -> Iterator[dict[str, Measure]]:
    """A daemon on an empty home with the one model, once for each of its sides."""
    encodings = {BASE64: "base64", FLOAT: "float", RERANK: ""}
    with (
        tempfile.TemporaryDirectory() as home,
        lmx_server(Path(home), [str(source.absolute())]) as server,
    ):
        yield {
            side: partial(run_work, server.port, encoding=encodings[side], model="auto")
            for side in sides
        }


def measure_piped(engine: PipedEngine, *, is_shared: bool) -> Measure:
    """A loop in a process of its own; `is_shared` gives it the texts of all clients at once."""

    def measure(work: Work) -> Outcome:
        size = work.size * work.clients if is_shared else work.size
        answer = engine.ask({"groups": work.groups(size), "query": work.query})
        return Outcome(**{**answer, "first": tuple(answer["first"])})

    return measure


def measure_all(rows: list[Row], sides: dict[str, Measure], pace: Pace, *, is_rerank: bool) -> None:
    """Every row in every repeat; the sides' order turns, so that drift favours none of them."""
    compare_numbers(
        {side: measure(rows[1].make(-1, is_rerank=is_rerank)) for side, measure in sides.items()}
    )
    names = list(sides)
    for repeat in range(pace.repeats):
        pace.wait_idle()
        for row in rows:
            work = row.make(repeat, is_rerank=is_rerank)
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                outcome = sides[name](work)
                row.outcomes.setdefault(name, []).append(outcome)
                print(
                    f"repeat {repeat}, {row.name}, {name}: {outcome.seconds:.2f} s",
                    file=sys.stderr,
                )


def compare_numbers(outcomes: dict[str, Outcome]) -> None:
    """Warn where a side has not computed what the bare loop has."""
    expected = outcomes[BARE].first
    for side, outcome in outcomes.items():
        found = outcome.first
        if len(found) != len(expected):
            print(f"{side} gives {len(found)} numbers, not {len(expected)}", file=sys.stderr)
        elif len(found) == 1 and abs(found[0] - expected[0]) > MOST_DIFFERENCE:
            print(f"{side} gives {found[0]}, not {expected[0]}", file=sys.stderr)
        elif len(found) > 1 and cosine(found, expected) < LEAST_COSINE:
            print(f"{side} gives another vector: {cosine(found, expected):.4f}", file=sys.stderr)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Of the angle between two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def print_results(rows: list[Row], ours: Sequence[str], others: Sequence[str]) -> None:
    """One Markdown table: our speeds, then each other side's with our ratios to it, in order."""
    head = ["texts of a request", *(f"{side} texts/s" for side in ours)]
    for other in others:
        head += [f"{other} texts/s", "LMX / it"]
    cells = []
    for row in rows:
        line = [row.name, *(row.speed(side) for side in ours)]
        for other in others:
            line += [row.speed(other), ", ".join(f"**{row.ratio(s, other)}**" for s in ours)]
        cells.append(line)
    print_table(head, cells)
    bare = [outcome for row in rows for outcome in row.outcomes[BARE]]
    outside = 1 - sum(o.compute_s for o in bare) / sum(o.seconds for o in bare)
    print(
        f"\nOf the bare loop's time {100 * outside:.1f} % goes by outside the model.\n", flush=True
    )


def bench_mlx(source: Path, purpose: str, *, python: str | None, pace: Pace) -> None:
    """An MLX model on all sides."""
    is_rerank = purpose == "reranking"
    ours = (RERANK,) if is_rerank else (BASE64, FLOAT)
    rows = [Row(*size) for size in SIZES]
    with ExitStack() as stack:
        path = str(source.absolute())
        bare = piped_engine("bare_vectors", "mlx", path, purpose, like_workers=True)
        sides = {BARE: measure_piped(stack.enter_context(bare), is_shared=True)}
        sides |= stack.enter_context(open_lmx(source, ours))
        if python is not None:
            loop = partial(piped_engine, "peer_sentences", path, purpose)
            peer = loop(python=python, like_workers=True)
            sides[PEER] = measure_piped(stack.enter_context(peer), is_shared=False)
        measure_all(rows, sides, pace, is_rerank=is_rerank)
    print_results(rows, ours, [BARE, *([PEER] if python else [])])


def bench_gguf(source: Path, pace: Pace) -> None:
    """A GGUF embedder against llama.cpp's own calls."""
    rows = [Row(*size) for size in SIZES]
    with ExitStack() as stack:
        arguments = (str(source.absolute()), str(usable_cores()), str(GGUF_BATCH_TOKENS))
        bare = piped_engine("bare_llama_vectors", *arguments, like_workers=True)
        sides = {BARE: measure_piped(stack.enter_context(bare), is_shared=True)}
        sides |= stack.enter_context(open_lmx(source, (BASE64, FLOAT)))
        measure_all(rows, sides, pace, is_rerank=False)
    print_results(rows, (BASE64, FLOAT), [BARE])


def peer_python(folder: Path) -> str:
    """The interpreter of the peer's environment, which is made if need be."""
    environment = folder.absolute() / "venv"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    if not peer_versions(folder):
        # In an environment of its own, so nothing here is changed.
        subprocess.run([python, "-m", "pip", "install", *PEER_PACKAGES], check=True)  # noqa: S603
    return str(python)


def peer_versions(folder: Path) -> list[str]:
    """What the peer's environment holds of what is measured."""
    packages = map(str, (folder / "venv").glob("lib/python*/site-packages"))
    found = {d.name: d.version for d in importlib.metadata.distributions(path=list(packages))}
    names = ("torch", "sentence-transformers")
    return [f"{name} {found[name]}" for name in names] if found.keys() >= set(names) else []


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("~/.opta-lmx/models/all-MiniLM-L6-v2").expanduser()
    parser.add_argument("--model", type=Path, default=default, help="by default the embedder")
    parser.add_argument("--gguf", type=Path, help="the same or another embedder as GGUF")
    parser.add_argument("--peer-dir", type=Path, help="where the peer's environment is, or is made")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait for idle cores"
    )
    parser.add_argument("--only", choices=["embed", "rerank", "gguf"])
    options = parser.parse_args()
    pace = Pace(options.repeats, options.patience)
    wanted = {options.only} if options.only else {"embed", "rerank", "gguf"}
    python, versions = None, []
    if options.peer_dir is None:
        print("Without --peer-dir the peer is left out; --help says how to get it", file=sys.stderr)
    elif wanted != {"gguf"}:
        python = peer_python(options.peer_dir)
        versions = peer_versions(options.peer_dir)
    print_head(*versions)
    if "embed" in wanted:
        print(f"Embeddings, {options.model.name}:\n")
        bench_mlx(options.model, "embedding", python=python, pace=pace)
    if "rerank" in wanted:
        print("Reranking, a cross-encoder of that shape; a request's texts are its documents:\n")
        with tempfile.TemporaryDirectory() as folder:
            model = write_cross_encoder(options.model, Path(folder) / "cross-encoder")
            bench_mlx(model, "reranking", python=python, pace=pace)
    if "gguf" in wanted and options.gguf is not None:
        print(f"Embeddings, {options.gguf.name}:\n")
        bench_gguf(options.gguf, pace)


if __name__ == "__main__":
    main()
