"""Generative rerankers: how much likelier a decoder answers yes than no.

Knows rows whose first segment is shared by the documents of a query: it is computed once, and its
KV cache serves every row of the batch and the batches after it. Source: the card of Qwen3-Reranker.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from lmx.engines.mlx.caches import CacheRows, can_copy
from lmx.engines.mlx.vectors.decoders import DecoderStates, run_in_parts
from lmx.engines.mlx.vectors.rows import pad_rows
from lmx.engines.vectors import TokenRow
from lmx.errors import UnsupportedModel

# Prefixes whose keys and values are kept: one query under way and one more.
KEPT_PREFIXES = 2
# How far the shortcut to two logits may be from the model's own, as a score.
HEAD_TOLERANCE = 0.02


class GenerativeReranker:
    """Scores from the logits of two tokens at the end of each row.

    Args:
        model: Of mlx-lm, evaluated.
        states: The same model's hidden states.
        answers: Token ids of "no" and "yes".

    Raises:
        UnsupportedModel: The class makes logits in a way that is not known.
    """

    def __init__(self, model: Any, states: DecoderStates, answers: tuple[int, int]) -> None:
        self._model = model
        self._pad_id = states.pad_id
        self._answers = _head_rows(model, answers)  # (2, D)
        self._shares_prefixes = can_copy(model)
        # By ids; the last used one is last.
        self._prefixes: dict[tuple[int, ...], CacheRows] = {}
        self._check_head(answers)

    def __call__(self, rows: Sequence[TokenRow]) -> mx.array:
        """Shapes: -> (B, 1) float32."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(self._prefix_of(row), []).append(index)
        scores = [
            self._score(prefix, [rows[index] for index in members])
            for prefix, members in groups.items()
        ]
        order = np.argsort(np.concatenate([np.array(m) for m in groups.values()]))
        return mx.concatenate(scores)[mx.array(order)]

    def shrink(self) -> None:
        """Drop the kept prefixes."""
        self._prefixes.clear()

    def _prefix_of(self, row: TokenRow) -> tuple[int, ...]:
        if not self._shares_prefixes or 1 not in row.type_ids:
            return ()
        return tuple(row.ids[: row.type_ids.index(1)])

    def _score(self, prefix: tuple[int, ...], rows: Sequence[TokenRow]) -> mx.array:
        rests = pad_rows([TokenRow(row.ids[len(prefix) :]) for row in rows], self._pad_id)
        if prefix:
            caches = self._computed(prefix).copies(len(rows))
        else:
            caches = CacheRows.single(self._model)
        states = run_in_parts(self._model, mx.array(rests.ids), caches)  # (B, L, D)
        last = states[mx.arange(len(rows)), mx.array(rests.lengths) - 1]
        logits = (last @ self._answers.T).astype(mx.float32)  # (B, 2)
        return mx.softmax(logits, axis=-1)[:, 1:]

    def _computed(self, prefix: tuple[int, ...]) -> CacheRows:
        found = self._prefixes.pop(prefix, None)
        if found is None:
            while len(self._prefixes) >= KEPT_PREFIXES:
                del self._prefixes[next(iter(self._prefixes))]
            found = CacheRows.single(self._model)
            run_in_parts(self._model, mx.array([prefix]), found)
            mx.eval(found.states())
        self._prefixes[prefix] = found
        return found

    def _check_head(self, answers: tuple[int, int]) -> None:
        """Some classes scale or cap their logits; the two made here must be the model's own."""
        ids = mx.array([list(answers)])
        whole = self._model(ids)[0, -1, mx.array(answers)].astype(mx.float32)
        short = (self._model.model(ids)[0, -1] @ self._answers.T).astype(mx.float32)
        shares = [float(np.array(mx.softmax(logits))[1]) for logits in (whole, short)]
        if not abs(shares[0] - shares[1]) <= HEAD_TOLERANCE:
            raise UnsupportedModel("mlx-lm's class makes logits in a way that is not known here")


def _head_rows(model: Any, ids: tuple[int, int]) -> mx.array:
    """The two rows of the matrix that makes logits: (2, D)."""
    wanted = mx.array(ids)
    head = getattr(model, "lm_head", None)
    if head is None:
        rows: mx.array = model.model.embed_tokens(wanted)
    elif "scales" in head:
        biases = head.get("biases")
        rows = mx.dequantize(
            head.weight[wanted],
            head.scales[wanted],
            None if biases is None else biases[wanted],
            group_size=head.group_size,
            bits=head.bits,
            mode=head.mode,
        )
    else:
        rows = head.weight[wanted]
    mx.eval(rows)
    return rows
