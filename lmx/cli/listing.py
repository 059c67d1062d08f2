"""``lmx status``, ``lmx ps`` and ``lmx list``: what the daemon says of itself, as tables."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Group, RenderableType

from lmx.cli.session import Session, command, table
from lmx.cli.words import NONE, count_text, duration_text, size_text, tokens_text

GIGA = 1e9


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    command(app, "status")(show_status)
    command(app, "ps")(show_loaded)
    command(app, "list")(show_models)


def show_status(session: Session) -> None:
    """Show the daemon at a glance: version, memory, models, requests."""
    document = session.client.get("/admin/status")

    def render() -> RenderableType:
        memory = document["memory"]
        used = f"{memory['used_gb']:.1f} of {memory['total_gb']:.1f} GB used"
        rows = [
            ["address", session.client.target.url],
            ["version", document["version"]],
            ["up for", duration_text(document["uptime_seconds"])],
            ["memory", f"{used} ({memory['used_percent']:.0f}%)"],
            ["models", ", ".join(document["models"]) or "none loaded"],
            *(["", _loading_text(row)] for row in document["loading"]),
            [
                "requests",
                f"{document['in_flight_requests']} running, {document['waiting_requests']} waiting",
            ],
        ]
        return Group(*(f"{name:<10}{value}" for name, value in rows))

    session.show(document, render)


def show_loaded(session: Session) -> None:
    """List the loaded models: memory, requests, idle time, and when they are unloaded."""
    document = session.client.get("/admin/models")
    running = session.client.get("/admin/requests")["requests"]
    counts = Counter(str(row["model_id"]) for row in running)
    now_s = time.time()
    loaded = [{**row, "running": counts[row["id"]]} for row in document["loaded"]]

    def render() -> RenderableType:
        rows = [_loaded_cells(row, now_s) for row in loaded]
        rows += [[_loading_text(row), *[""] * 6] for row in document["loading"]]
        if not rows:
            return "no model is loaded; `lmx load MODEL` loads one, `lmx list` shows which"
        return table(
            *("MODEL", "MEMORY", "BACKEND", "CONTEXT", "RUNNING", "IDLE", "EXPIRES"),
            numbers=("MEMORY", "CONTEXT", "RUNNING"),
            rows=rows,
        )

    session.show({"loaded": loaded, "loading": document["loading"]}, render)


def show_models(session: Session) -> None:
    """List the models on disk."""
    models = session.client.get("/admin/models")["models"]

    def render() -> RenderableType:
        if not models:
            return "no model is on disk; `lmx pull MODEL` or `lmx import demo` fetches one"
        return table(
            *("MODEL", "SIZE", "FORMAT", "QUANT", "PARAMS", "CONTEXT", "STATUS"),
            numbers=("SIZE", "PARAMS", "CONTEXT"),
            rows=[_model_cells(row) for row in models],
        )

    session.show({"models": models}, render)


def _loaded_cells(row: Mapping[str, Any], now_s: float) -> list[str]:
    idle_s = max(0.0, now_s - row["last_used_at"])
    keep_s = row["keep_alive_sec"]
    is_busy = row["running"] > 0
    return [
        row["id"],
        size_text(row["memory_gb"] * GIGA),
        row["backend"],
        tokens_text(row["context_length"]),
        str(row["running"]),
        NONE if is_busy else duration_text(idle_s),
        f"in {duration_text(keep_s if is_busy else keep_s - idle_s)}" if keep_s > 0 else "never",
    ]


def _loading_text(row: Mapping[str, Any]) -> str:
    reason = f"; before: {row['reason']}" if row.get("reason") else ""
    waiting = f", {row['waiting']} waiting" if row.get("waiting") else ""
    return f"{row['id']} ({row['state']}{waiting}{reason})"


def _model_cells(row: Mapping[str, Any]) -> list[str]:
    status = "loaded" if row["loaded"] else row["status"]
    return [
        row["path"],
        size_text(row["size_bytes"]),
        row["format"],
        row.get("quantisation") or NONE,
        count_text(row.get("parameter_count")),
        tokens_text(row.get("context_length")),
        "" if status == "complete" else status,
    ]
