"""``lmx show``: one model closely, with the arithmetic of its memory."""

from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Group, RenderableType

from lmx.cli.arguments import ModelArgument
from lmx.cli.session import Session, command
from lmx.cli.words import (
    NONE,
    count_text,
    path_segment,
    printable,
    size_text,
    tokens_text,
)

GIGA = 1e9


def add_commands(app: typer.Typer) -> None:
    """Put it on the command line."""
    command(app, "show")(show_card)


def show_card(session: Session, model: ModelArgument) -> None:
    """Show what a model is made of, and what a load of it would take."""
    document = session.client.get(f"/admin/models/{path_segment(model)}/card", timeout_s=60.0)
    session.show(document, lambda: _render(document))


def _render(card: Mapping[str, Any]) -> RenderableType:
    rows = [
        ("model", card["model_id"]),
        ("path", card["path"]),
        ("format", card["format"]),
        ("architecture", _architecture(card)),
        ("parameters", count_text(card["parameter_count"])),
        ("quantisation", _quantisation(card)),
        ("context", f"{tokens_text(card['context_length'])} tokens"),
        ("template", _template(card)),
        ("can", ", ".join(card["capabilities"])),
        ("loaded", _loaded(card)),
        *_estimate_rows(card["estimate"]),
    ]
    is_fake = card["path"] is None
    shown = [(name, text) for name, text in rows if text and not (is_fake and NONE in text)]
    return Group(*(f"{name:<14}{printable(str(text))}" for name, text in shown))


def _architecture(card: Mapping[str, Any]) -> str:
    parts = [card["architecture"] or NONE]
    if card["layer_count"]:
        parts.append(f"{card['layer_count']} layers")
    if card["hidden_size"]:
        parts.append(f"{card['hidden_size']:,} wide")
    if card["vocabulary_size"]:
        parts.append(f"{card['vocabulary_size']:,} tokens in the vocabulary")
    return ", ".join(parts)


def _quantisation(card: Mapping[str, Any]) -> str:
    size_bytes = card["size_bytes"]
    on_disk = "" if size_bytes is None else f", {size_text(size_bytes)} on disk"
    bits = card["bits_per_weight"]
    per_weight = f" ({bits:g} bits per weight)" if bits else ""
    return f"{card['quantisation'] or NONE}{per_weight}{on_disk}"


def _template(card: Mapping[str, Any]) -> str:
    template = card["template"]
    if template is None:
        return "none of its own" if card["purpose"] == "generation" and card["path"] else ""
    syntax = template["tool_syntax"]
    tools = "tools" if template["has_tools"] else "no place for tools"
    named = f" ({syntax})" if syntax and template["has_tools"] else ""
    opening = template["reasoning_opening"] or ""
    thinks = f", thinking between {opening.strip()} and its end" if opening else ", no thinking"
    return tools + named + thinks


def _loaded(card: Mapping[str, Any]) -> str:
    row = card["loaded"]
    if row is None:
        return "no"
    return (
        f"yes, {size_text(row['memory_gb'] * GIGA)}, {row['backend']}, "
        f"context of {row['context_length']:,} tokens, {row['request_count']} requests"
    )


def _estimate_rows(estimate: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What a load takes, as a sum."""
    if estimate is None:
        return []
    per_token, tokens = estimate["kv_bytes_per_token"], estimate["cache_tokens"]
    cache = f"{tokens:,} tokens x {size_text(per_token)}" if tokens else "none"
    context = estimate["context_length"]
    fits = "fits" if estimate["fits"] else "does not fit"
    return [
        ("memory", f"{_gb(estimate, 'weights_gb')}  weights"),
        ("", f"+ {_gb(estimate, 'kv_cache_gb')}  KV cache: {cache}"),
        ("", f"+ {_gb(estimate, 'work_gb')}  work space of a pass"),
        ("", f"= {_gb(estimate, 'total_gb')}  with a context of {context:,} tokens"),
        ("", f"{fits}: {size_text(estimate['free_gb'] * GIGA)} are free for models"),
    ]


def _gb(estimate: Mapping[str, Any], key: str) -> str:
    return size_text(estimate[key] * GIGA)
