"""One rectangle of decoding rows: their caches and next inputs. Knows no prompts and no clients.

`launch` submits a step and returns at once; its tokens are both the answer, read one step later,
and the next step's input, which never leaves the device. Reading one step behind the launch keeps
the device busy while Python builds the next graph. A constrained row breaks that rhythm, because
its mask depends on the token before: then the engine reads before it launches, and the masks are
filled while the device is in the forward pass.

Choices of one prompt share its row of the caches until their first step is launched: the last token
of the prompt is computed once, and each draws its own first token from the same logits.

Shapes: B rows, C rows of the caches, R constrained rows, V vocabulary, W = ceil(V / 32) mask words.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

from lmx.engines.base import TokenLogprobs
from lmx.engines.mlx.logprobs import DeviceLogprobs, gather, read
from lmx.engines.mlx.prefill import Ready
from lmx.engines.mlx.sampler import BatchSampler
from lmx.engines.mlx.sequence import LiveSequence

if TYPE_CHECKING:
    from lmx.engines.mlx.caches import CacheRows

ALL_ALLOWED = -1
Leave = Callable[[LiveSequence, "CacheRows", int], None]


class Launched(NamedTuple):
    """A submitted step: one token id per sequence, readable when the device is done.

    Attributes:
        token_ids: (B,) uint32; of a check one per position, all of the same sequence.
        sequences: Whose each is.
        logprobs: Of those that asked.
        padded_tokens: Rows times the longest one's, which is what attention went over.
        drafts: What the step checks, empty if it was launched after everything was read;
            `None` if it was launched before the step before it was read.
    """

    token_ids: mx.array
    sequences: tuple[LiveSequence, ...]
    logprobs: DeviceLogprobs | None
    padded_tokens: int
    drafts: tuple[int, ...] | None = None

    def read(self) -> list[tuple[LiveSequence, int, TokenLogprobs | None]]:
        """Every sequence's token, and its log-probabilities if it asked; waits for the device.

        Of a check, the tokens the sequence would have got without it: those that the draft
        foretold, and the one after them.
        """
        token_ids: list[int] = self.token_ids.tolist()  # type: ignore[assignment]
        taken = count_taken(token_ids, self.drafts) if self.drafts else len(token_ids)
        asked = [s.row.top_logprobs for s in self.sequences]
        counts = [count for count in asked if count is not None]
        found = iter([] if self.logprobs is None else read(self.logprobs, counts))
        return [
            (sequence, token_id, None if count is None else next(found))
            for sequence, token_id, count in zip(self.sequences, token_ids, asked, strict=True)
        ][:taken]


def count_taken(token_ids: Sequence[int], drafts: Sequence[int]) -> int:
    """How many leading tokens of a check count: those that were foretold, and one more."""
    pairs = enumerate(zip(token_ids, drafts, strict=False))
    return next((i for i, (token, draft) in pairs if token != draft), len(drafts)) + 1


class Rows(NamedTuple):
    """Rows on their way into a batch.

    Attributes:
        sequences: Of each row.
        inputs: (B,) uint32
        caches: C rows.
        cache_rows: Of each sequence, ascending from 0, none left out.
    """

    sequences: list[LiveSequence]
    inputs: mx.array
    caches: "CacheRows"
    cache_rows: list[int]

    @classmethod
    def of(cls, ready: Ready) -> "Rows":
        """Prefilled sequences, whose next input is the last token of their prompt."""
        inputs = mx.array(ready.last_ids, dtype=mx.uint32)
        return cls(ready.sequences, inputs, ready.caches, ready.cache_rows)


class DecodeBatch:
    """Sequences that get one token per step.

    Args:
        model: An mlx-lm model.
        end_ids: What rows with a least number of tokens may not sample before.
        leave: Is told of each row that goes for good, while the caches still have it: its
            sequence, the caches and its place in them.
    """

    def __init__(self, model: Any, end_ids: Sequence[int], leave: Leave | None = None) -> None:
        self._model = model
        self._end_ids = end_ids
        self._leave = leave
        self._sequences: list[LiveSequence] = []
        # All three are None iff there are no rows; the sampler is also None after a change.
        self._caches: CacheRows | None = None
        self._inputs: mx.array | None = None  # (B,) uint32
        self._sampler: BatchSampler | None = None
        self._cache_rows: list[int] = []  # of each sequence
        self._unsettled_tokens = 0  # that a check in flight has added to the caches

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def is_constrained(self) -> bool:
        """Some row's next mask depends on the token launched last."""
        return any(s.constraint is not None and s.constraint.is_binding for s in self._sequences)

    @property
    def sequences(self) -> list[LiveSequence]:
        """In the order of the rows; those that were removed are still among them."""
        return self._sequences

    @property
    def draft_limit(self) -> int:
        """Most tokens of a draft that `check` takes now; less than 1 if it takes none."""
        if self._caches is None or len(self._sequences) != 1 or self.is_constrained:
            return 0
        return min(self._sequences[0].left_tokens, self._caches.rewindable_tokens) - 1

    def join(self, rows: Rows) -> None:
        """Add rows; those removed in the meantime leave before the next launch."""
        before = self._cache_row_count
        if self._caches is None or self._inputs is None:
            self._caches, self._inputs = rows.caches, rows.inputs
        else:
            self._caches.extend(rows.caches)
            self._inputs = mx.concatenate([self._inputs, rows.inputs])
        self._sequences = self._sequences + rows.sequences
        self._cache_rows = self._cache_rows + [before + row for row in rows.cache_rows]
        self._retire_sampler()

    def take(self, wanted: Sequence[int]) -> Rows:
        """Take rows out, to join another batch; at least one, by their place here."""
        if self._caches is None or self._inputs is None:
            raise ValueError("the batch has no rows")
        self._retire_sampler()
        self._part()
        if len(wanted) == len(self._sequences):
            rows = Rows(self._sequences, self._inputs, self._caches, self._cache_rows)
            self.clear()
            return rows
        taken = set(wanted)
        rest = [row for row in range(len(self._sequences)) if row not in taken]
        rows = Rows(
            [self._sequences[row] for row in wanted],
            self._inputs[mx.array(list(wanted))],
            self._caches.some(list(wanted)),
            list(range(len(wanted))),
        )
        self._keep(rest)
        return rows

    def drop_done(self) -> None:
        """Free the rows that need no further launch."""
        kept = [row for row, sequence in enumerate(self._sequences) if sequence.wants_launch]
        if len(kept) == len(self._sequences):
            return
        self._rewind(self._unsettled_tokens)
        self._part()
        if self._leave is not None and self._caches is not None:
            for row, sequence in enumerate(self._sequences):
                if not sequence.wants_launch:
                    self._leave(sequence, self._caches, row)
        if not kept:
            self.clear()
            return
        self._keep(kept)

    def clear(self) -> None:
        """Free every row."""
        self._sequences, self._cache_rows = [], []
        self._caches = self._inputs = self._sampler = None
        self._unsettled_tokens = 0

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def launch(self) -> Launched | None:
        """Submit one decode step for every row; `None` without rows.

        Every constraint must have consumed its row's last token.
        """
        if self._caches is None or self._inputs is None:
            return None
        logits = self._forward(self._inputs, self._caches)
        masks = None
        if self.is_constrained:
            mx.async_eval(logits)
            masks = self._fill_masks(logits.shape[-1])
        if self._sampler is None:
            self._sampler = self._new_sampler(logits.shape[-1])
        token_ids = self._sampler.sample(logits, masks)  # (B,) uint32
        logprobs = self._gather(logits, token_ids)
        mx.async_eval(token_ids, *(logprobs or ()))
        self._inputs = token_ids
        self._part()
        for sequence in self._sequences:
            sequence.launched += 1
        longest = max(sequence.length_tokens for sequence in self._sequences)
        padded_tokens = longest * len(self._sequences)
        return Launched(token_ids, tuple(self._sequences), logprobs, padded_tokens)

    @property
    def _cache_row_count(self) -> int:
        return self._cache_rows[-1] + 1 if self._cache_rows else 0

    def _forward(self, inputs: mx.array, caches: "CacheRows") -> mx.array:
        """Logits of every row, (B, V), of one forward pass over the C rows of the caches."""
        rows = self._cache_rows
        is_shared = self._cache_row_count < len(rows)
        if is_shared:
            inputs = inputs[mx.array([rows.index(row) for row in range(rows[-1] + 1)])]  # (C,)
        logits: mx.array = self._model(inputs[:, None], cache=caches.layers)[:, -1, :]  # (C, V)
        return logits[mx.array(rows)] if is_shared else logits

    def _part(self) -> None:
        """Give every sequence a row of the caches of its own."""
        if self._caches is not None and self._cache_row_count < len(self._cache_rows):
            self._caches.replicate(self._cache_rows)
            self._cache_rows = list(range(len(self._cache_rows)))

    def _rewind(self, tokens: int) -> None:
        """Take the last tokens out of the caches; those of a check are not in flight any more."""
        if self._caches is not None and self._unsettled_tokens:
            self._caches.rewind(tokens)
        self._unsettled_tokens = 0

    def _keep(self, rows: list[int]) -> None:
        if self._caches is not None and self._inputs is not None:
            self._caches.keep(rows)
            self._inputs = self._inputs[mx.array(rows)]
        self._sequences = [self._sequences[row] for row in rows]
        self._cache_rows = list(range(len(rows)))
        self._retire_sampler()

    def check(self, drafts: Sequence[int]) -> Launched | None:
        """Submit one step of the lone row over its last token and a draft behind it.

        Every position's token is drawn as the row would draw it there, with the same number of
        its random sequence, so that the tokens are those of plain steps. `settle` must follow.

        Args:
            drafts: At most `draft_limit`; without any it is a plain step.

        Shapes: K drafts: logits (1, 1 + K, V).
        """
        if not drafts:
            launched = self.launch()
            return None if launched is None else launched._replace(drafts=())
        if self._caches is None or self._inputs is None:
            return None
        sequence = self._sequences[0]
        inputs = mx.concatenate([self._inputs, mx.array(list(drafts), dtype=mx.uint32)])  # (1 + K,)
        logits = self._model(inputs[None], cache=self._caches.layers)[0]  # (1 + K, V)
        self._retire_sampler()
        rows = [replace(sequence.row, drawn=sequence.launched + i) for i in range(inputs.size)]
        sampler = BatchSampler(rows, logits.shape[-1], self._end_ids)
        token_ids = sampler.sample(logits)  # (1 + K,) uint32
        count = sequence.row.top_logprobs
        logprobs = None if count is None else gather(logits, token_ids, count)
        mx.async_eval(token_ids, *(logprobs or ()))
        self._unsettled_tokens = inputs.size
        return Launched(
            token_ids,
            (sequence,) * inputs.size,
            logprobs,
            padded_tokens=sequence.length_tokens,
            drafts=tuple(drafts),
        )

    def settle(self, launched: Launched, token_ids: Sequence[int]) -> None:
        """Go on after a check with the tokens that it gave; nothing if its row has left."""
        if (
            not launched.drafts
            or self._caches is None
            or self._sequences != [launched.sequences[0]]
        ):
            return
        self._rewind(self._unsettled_tokens - len(token_ids))
        self._inputs = mx.array([token_ids[-1]], dtype=mx.uint32)  # (1,) uint32
        self._sequences[0].launched += len(token_ids)

    def _new_sampler(self, vocabulary_size: int) -> BatchSampler:
        for sequence in self._sequences:
            sequence.row.drawn = sequence.launched
        rows = [sequence.row for sequence in self._sequences]
        return BatchSampler(rows, vocabulary_size, self._end_ids)

    def _retire_sampler(self) -> None:
        if self._sampler is not None:
            self._sampler.hand_back()
        self._sampler = None

    def _fill_masks(self, vocabulary_size: int) -> mx.array:
        constraints = [s.constraint for s in self._sequences if s.constraint is not None]
        words = (vocabulary_size + 31) // 32
        masks = np.full((len(constraints), words), ALL_ALLOWED, dtype=np.int32)  # (R, W)
        for constraint, mask in zip(constraints, masks, strict=True):
            constraint.fill_mask(mask)
        return mx.array(masks.view(np.uint32))

    def _gather(self, logits: mx.array, token_ids: mx.array) -> DeviceLogprobs | None:
        counts = [(i, s.row.top_logprobs) for i, s in enumerate(self._sequences)]
        asking = {row: count for row, count in counts if count is not None}
        if not asking:
            return None
        if len(asking) == len(counts):
            return gather(logits, token_ids, max(asking.values()))
        rows = mx.array(list(asking))  # (N,) int32
        return gather(logits[rows], token_ids[rows], max(asking.values()))
