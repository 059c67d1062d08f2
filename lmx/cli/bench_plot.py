"""Plots of a benchmark: bars of text for the terminal, and a PNG through matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from lmx.cli.bench_runs import PromptRow, StreamRow
from lmx.cli.exits import CommandFailed

BAR_CELLS = 40
# Eighths of a cell, from one to seven.
PARTS = " ▏▎▍▌▋▊▉"
EIGHTHS = 8


def text_bars(title: str, rows: Sequence[tuple[str, float]], unit: str) -> str:
    """A bar per row, the longest of them `BAR_CELLS` wide; fits into 80 columns."""
    top = max((value for _, value in rows), default=0.0) or 1.0
    width = max((len(label) for label, _ in rows), default=0)
    lines = [title]
    for label, value in rows:
        eighths = round(EIGHTHS * BAR_CELLS * value / top)
        bar = "█" * (eighths // EIGHTHS) + PARTS[eighths % EIGHTHS].strip()
        lines.append(f"{label:>{width}} {bar:<{BAR_CELLS}} {value:,.1f} {unit}")
    return "\n".join(lines)


def draw_png(
    path: Path, model: str, *, streams: Sequence[StreamRow], prompts: Sequence[PromptRow]
) -> None:
    """Draw speed by streams and time to the first text by prompts, side by side.

    Raises:
        CommandFailed: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CommandFailed(
            "plots are drawn by matplotlib, which is not installed; "
            "`pip install 'opta-lmx[plot]'` does that"
        ) from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(model)
    counts = [row.streams for row in streams]
    left.plot(counts, [row.total_tps for row in streams], marker="o", label="all streams")
    left.plot(counts, [row.stream_tps for row in streams], marker="o", label="each stream")
    left.set(xlabel="streams", ylabel="tokens per second", ylim=(0, None))
    left.legend()
    lengths = [row.prompt_tokens for row in prompts]
    right.plot(lengths, [1000 * row.ttft_s for row in prompts], marker="o")
    right.set(xlabel="tokens of the prompt", ylabel="ms to the first text", ylim=(0, None))
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from error
