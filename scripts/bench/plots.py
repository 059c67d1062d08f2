"""Figures of benchmark results, as PNG, legible on light and dark pages alike.

    python -m scripts.bench.plots docs/plots bench-results/*.json

Every file that a benchmark wrote with ``--json`` becomes one figure, named as the file. Backgrounds
are transparent and everything else has a middle tone. It measures nothing.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from scripts.bench.report import Results, median, percentile, ratio

Document = dict[str, Any]

INK = "#7d8590"
GRID = "#7d859040"
# By side: LMX, the peer, the bare engine; and shades of one of them.
COLOURS = {"LMX": "#2f81f7", "peer": "#d9822b", "bare": INK}
SHADES = ("#8250df", "#2f81f7", "#2da44e")
WIDTH, HEIGHT, DPI = 9.0, 3.6, 160
MANY = 100


def colour_of(side: str) -> str:
    """A side's colour: every peer has the same, because a figure has one of them."""
    return COLOURS.get(side, COLOURS["peer"])


def new_figure(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """An empty figure with panels side by side."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    figure.suptitle(title, color=INK, fontsize=11)
    axes = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(which="both", colors=INK, labelsize=8)
        axis.grid(visible=True, color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        for spine in axis.spines.values():
            spine.set_color(GRID)
        for label in (axis.xaxis.label, axis.yaxis.label, axis.title):
            label.set_color(INK)
            label.set_fontsize(9)
    return figure, axes


def finish(axis: Axes, *, x: str = "", y: str = "") -> None:
    """Name the axes."""
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def add_legend(figure: Figure) -> None:
    """What is what, once for all panels and below them, where it hides nothing."""
    named: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=max(1, len(named)),
        frameon=False,
        labelcolor=INK,
        fontsize=8,
    )


def short(value: float) -> str:
    """A number in as many digits as a bar has room for."""
    return f"{value:,.0f}" if value >= MANY else f"{value:.3g}"


def set_log(axis: XAxis | YAxis, scale: Callable[[str], Any]) -> None:
    """A logarithmic axis with plain numbers."""
    scale("log")
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


def log_bars(axis: Axes, values: list[float]) -> None:
    """Make bars logarithmic; they begin well below the least, or it would have no length."""
    set_log(axis.yaxis, axis.set_yscale)
    found = [value for value in values if value > 0]
    if found:
        axis.set_ylim(min(found) / 4, max(found) * 2)


def bars(axis: Axes, groups: list[str], series: dict[str, tuple[list[float], str]]) -> None:
    """Groups of bars with their values on top; a series is its values and its colour."""
    width = 0.8 / max(1, len(series))
    for place, (name, (values, colour)) in enumerate(series.items()):
        at = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axis.bar(at, values, width * 0.92, label=name, color=colour)
        axis.bar_label(drawn, fmt=short, color=INK, fontsize=7, padding=1)
    axis.set_xticks(range(len(groups)), groups)
    axis.margins(y=0.15)


def streams_axis(axis: Axes, streams: list[int]) -> None:
    """Numbers of streams, each twice the one before."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(streams, [str(count) for count in streams])
    axis.minorticks_off()


def draw_serving(document: Document) -> Figure:
    """Tokens per second and the ratios, by streams."""
    figure, (speeds, ratios) = new_figure(2, _title("Serving", document))
    results = document["results"]
    streams = [result["streams"] for result in results]
    for key, name in (("bare", "bare"), ("lmx", "LMX"), ("peer", "peer")):
        if all(result[key] for result in results):
            values = [median(result[key]) for result in results]
            speeds.plot(streams, values, marker="o", label=name, color=colour_of(name))
    for key in ("bare", "peer"):
        if all(result[key] for result in results):
            values = [ratio(result["lmx"], result[key]) for result in results]
            ratios.plot(streams, values, marker="o", label=f"LMX / {key}", color=colour_of(key))
    ratios.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
    for axis in (speeds, ratios):
        streams_axis(axis, streams)
    finish(speeds, x="streams", y="tokens/s")
    finish(ratios, x="streams", y="ratio")
    return figure


def draw_fairness(document: Document) -> Figure:
    """A stream's gaps, a short request's TTFT and the long prompt's, alone and beside."""
    figure, axes = new_figure(3, _title("One long prompt beside others", document))
    gaps, shorts, long = axes
    groups = ["alone", "beside it"]

    def p99(values: list[float]) -> float:
        return percentile(values, 0.99)

    bars(gaps, groups, _pairs(document, ("stream_alone", "stream_beside"), p99))
    bars(shorts, groups, _pairs(document, ("short_alone", "short_beside"), median))
    keys = ("long_alone", "long_by_stream", "long_by_shorts")
    bars(long, ["alone", "by a stream", "by shorts"], _pairs(document, keys, median))
    for axis in axes:
        log_bars(axis, _heights(axis))
    finish(gaps, y="running stream's ITL p99, ms")
    finish(shorts, y="short request's TTFT, ms")
    finish(long, y="long prompt's TTFT, ms")
    return figure


def _pairs(
    document: Document, keys: tuple[str, ...], of: Callable[[list[float]], float]
) -> dict[str, tuple[list[float], str]]:
    return {
        result["side"]: ([of(result[key]) for key in keys], colour_of(result["side"]))
        for result in document["results"]
    }


def _heights(axis: Axes) -> list[float]:
    return [float(bar.get_height()) for bar in axis.patches if isinstance(bar, Rectangle)]


def draw_prefix(document: Document) -> Figure:
    """Cold, warm and restarted TTFT by the prompt's length, a panel a side."""
    sides = list(dict.fromkeys(result["side"] for result in document["results"]))
    figure, axes = new_figure(len(sides), _title("Time to first token", document))
    for side, axis in zip(sides, axes, strict=True):
        found = [result for result in document["results"] if result["side"] == side]
        series = {
            key: ([result[key] for result in found], shade)
            for key, shade in zip(("cold", "restarted", "warm"), SHADES, strict=True)
        }
        bars(axis, [f"{result['prompt_tokens']} tokens" for result in found], series)
        axis.set_title(side, color=INK, fontsize=9)
        finish(axis, y="TTFT, ms")
    heights = [height for axis in axes for height in _heights(axis)]
    for axis in axes:
        log_bars(axis, heights)
    return figure


def draw_choices(document: Document) -> Figure:
    """One choice against many."""
    figure, (axis,) = new_figure(1, _title("The prompt's work of many choices", document))
    series = {
        result["side"]: (
            [median(result["one"]), median(result["many"])],
            colour_of(result["side"]),
        )
        for result in document["results"]
    }
    bars(axis, ["n=1", "n=8"], series)
    finish(axis, y="until all choices have begun, ms")
    return figure


def draw_agent(document: Document) -> Figure:
    """How long each turn takes, and all turns so far."""
    figure, (turns, total) = new_figure(2, _title("An agent's session", document))
    for result in document["results"]:
        count = len(result["turns"]) // result["agents"]
        seconds = [turn["total_s"] for turn in result["turns"][:count]]
        numbers = list(range(1, count + 1))
        sums = [sum(seconds[: number + 1]) for number in range(count)]
        colour = colour_of(result["side"])
        turns.plot(numbers, seconds, marker=".", label=result["side"], color=colour)
        total.plot(numbers, sums, marker=".", label=result["side"], color=colour)
    for axis in (turns, total):
        axis.set_ylim(bottom=0)
    finish(turns, x="turn", y="seconds of the turn")
    finish(total, x="turn", y="seconds so far")
    return figure


def draw_load(document: Document) -> Figure:
    """How many requests had their first text, and streams their next, within a time."""
    figure, axes = new_figure(2, _title("A mixed load", document))
    for axis, key, name in zip(axes, ("ttft", "itl"), ("TTFT", "ITL"), strict=True):
        for result in document["results"]:
            values = sorted(v for found in result["kinds"].values() for v in found[key])
            shares = [(place + 1) / len(values) for place in range(len(values))]
            colour = colour_of(result["side"])
            axis.step(values, shares, where="post", label=result["side"], color=colour)
        set_log(axis.xaxis, axis.set_xscale)
        finish(axis, x=f"{name}, ms", y="share within")
    return figure


def draw_lookup(document: Document) -> Figure:
    """Decode speed with lookup and without."""
    figure, (axis,) = new_figure(1, _title("Prompt lookup", document))
    results: Results = document["results"]
    groups = [f"{result['work']}, {result['streams']}" for result in results]
    series = {
        "LMX without": ([median(result["without"]) for result in results], SHADES[0]),
        "LMX with lookup": ([median(result["with"]) for result in results], COLOURS["LMX"]),
    }
    if all(result["peer_speeds"] for result in results):
        peer = [median(result["peer_speeds"]) for result in results]
        series[results[0]["peer"]] = (peer, COLOURS["peer"])
    bars(axis, groups, series)
    finish(axis, x="work, streams", y="tokens/s of the decode")
    return figure


DRAWERS: dict[str, Callable[[Document], Figure]] = {
    "serving": draw_serving,
    "fairness": draw_fairness,
    "prefix": draw_prefix,
    "choices": draw_choices,
    "agent": draw_agent,
    "load": draw_load,
    "lookup": draw_lookup,
}


def _title(what: str, document: Document) -> str:
    machine = document["machine"]
    where = machine.get("gpu") or f"{machine['cores']} cores"
    return f"{what}: {document['engine']}, {document['model']}, {where}"


def draw(source: Path, folder: Path) -> Path:
    """Draw one file of results; returns the figure's path.

    Raises:
        ValueError: The file is of no benchmark with a figure.
    """
    document = json.loads(source.read_text())
    drawer = DRAWERS.get(document.get("bench", ""))
    if drawer is None:
        raise ValueError(f"{source}: not one of {', '.join(DRAWERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}.png"
    figure = drawer(document)
    add_legend(figure)
    figure.savefig(target, transparent=True)
    return target


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where figures go")
    parser.add_argument("sources", type=Path, nargs="+", help="results")
    options = parser.parse_args()
    for source in options.sources:
        print(draw(source, options.folder))


if __name__ == "__main__":
    main()
