"""``lmx bench``: which measurements are made, and how they are shown."""

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Group, RenderableType

from lmx.cli.bench_plot import draw_png, text_bars
from lmx.cli.bench_runs import Bench, PromptRow, StreamRow
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.session import Session, table

MOST_STREAMS = 256
MOST_PROMPT_TOKENS = 1_000_000


class Result(msgspec.Struct, frozen=True):
    """What was measured. `tokens` is the length of each answer."""

    model: str
    backend: str
    tokens: int
    by_prompt: list[PromptRow]
    by_streams: list[StreamRow]


def run_bench(
    session: Session,
    model: str | None,
    *,
    tokens: int,
    streams: str,
    prompts: str,
    png: Path | None,
) -> None:
    """Measure a loaded model and show the results.

    Args:
        session: The daemon, and where results go.
        model: Its name; `None` for the one that was loaded first.
        tokens: Length of each answer.
        streams: Numbers of answers at a time, with commas between them.
        prompts: Lengths of prompts, likewise.
        png: File to draw into.

    Raises:
        CommandFailed: The numbers are none, the model is not loaded, or an answer failed.
    """
    counts = _numbers(streams, "--streams", MOST_STREAMS)
    lengths = _numbers(prompts, "--prompts", MOST_PROMPT_TOKENS)
    row = _loaded(session, model)
    bench = Bench(session.client.target, row["id"], tokens=tokens)
    by_prompt, by_streams = trio.run(
        partial(_measure, session, bench, lengths=lengths, counts=counts)
    )
    result = Result(row["id"], row["backend"], tokens, by_prompt, by_streams)
    session.show(msgspec.to_builtins(result), lambda: _render(result))
    if png is not None:
        draw_png(png, result.model, streams=by_streams, prompts=by_prompt)
        session.say(f"the plots are in {png}")


async def _measure(
    session: Session, bench: Bench, *, lengths: list[int], counts: list[int]
) -> tuple[list[PromptRow], list[StreamRow]]:
    session.say("warming up")
    await bench.prompt_row(lengths[0])
    by_prompt = []
    for length in lengths:
        session.say(f"a prompt of about {length} tokens")
        by_prompt.append(await bench.prompt_row(length))
    by_streams = []
    for count in counts:
        session.say(f"{count} at a time")
        by_streams.append(await bench.stream_row(count))
    return by_prompt, by_streams


def _render(result: Result) -> RenderableType:
    by_streams, by_prompt = result.by_streams, result.by_prompt
    prompts = table(
        *("PROMPT", "FIRST TEXT", "PROMPT TOK/S", "ANSWER TOK/S"),
        numbers=("PROMPT", "FIRST TEXT", "PROMPT TOK/S", "ANSWER TOK/S"),
        rows=[
            [
                f"{row.prompt_tokens:,}",
                f"{1000 * row.ttft_s:,.0f} ms",
                f"{row.prompt_tps:,.0f}",
                f"{row.decode_tps:,.1f}",
            ]
            for row in by_prompt
        ],
    )
    streams = table(
        *("STREAMS", "FIRST TEXT", "EACH TOK/S", "ALL TOK/S"),
        numbers=("STREAMS", "FIRST TEXT", "EACH TOK/S", "ALL TOK/S"),
        rows=[
            [
                str(row.streams),
                f"{1000 * row.ttft_s:,.0f} ms",
                f"{row.stream_tps:,.1f}",
                f"{row.total_tps:,.1f}",
            ]
            for row in by_streams
        ],
    )
    bars = text_bars(
        "speed of all streams together",
        [(str(row.streams), row.total_tps) for row in by_streams],
        "tok/s",
    )
    title = f"{result.model} ({result.backend}), answers of {result.tokens} tokens"
    return Group(title, "", prompts, "", streams, "", bars)


def _loaded(session: Session, model: str | None) -> dict[str, Any]:
    """The row of the model that is meant, by its id or the end of it."""
    rows = session.client.get("/admin/models")["loaded"]
    if model is None and rows:
        return dict(rows[0])
    found = [row for row in rows if model in {row["id"], row["id"].rpartition("/")[2]}]
    if not found:
        loaded = ", ".join(row["id"] for row in rows) or "none"
        what = "no model is loaded" if model is None else f"{model!r} is not loaded"
        message = f"{what}; `lmx load` loads one. Loaded: {loaded}"
        raise CommandFailed(message, Exit.NOT_FOUND, "not_found")
    return dict(found[0])


def _numbers(text: str, option: str, most: int) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= most for word in words):
        raise CommandFailed(
            f"{option} takes numbers from 1 to {most:,} with commas between them",
            Exit.USAGE,
            "usage",
        )
    return [int(word) for word in words]
