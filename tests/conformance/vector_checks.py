"""The contract of models that answer with numbers, in executable form: `check_vectors(maker)`.

It knows only `lmx.engines.vectors`. A maker loads a fresh engine of either purpose; every check
closes the one it made. A new engine gets its tests by writing a maker.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from lmx.engines.vectors import LoadedVectors, TokenRow

VectorMaker = Callable[[], LoadedVectors]

# What neighbours may change: sums of float32 in another order.
TOLERANCE = 1e-5
# llama.cpp attends and looks its activation up in half precision, on ways that the size of a pass
# decides about.
TOLERANCES = {"llama": 1e-3}
MEMORY_SLACK_BYTES = 1 << 20
QUERY = "the hen"
# Longer than a row of any model that the checks run on.
ENDLESS = "the hen and the heron " * 4000
TEXTS = (
    "the hen and the heron",
    "hello",
    "",
    "on and on",
    "an end " * 9,
    "Grüße, 世界 👋🏽\n\tא",
    "in the inn, the tenth hen; and then nine",
    "x",
)


@contextmanager
def opened(maker: VectorMaker) -> Iterator[LoadedVectors]:
    """A fresh engine and its tokenizer, closed twice at the end, which must be harmless."""
    loaded = maker()
    try:
        yield loaded
    finally:
        loaded.engine.close()
        loaded.engine.close()


def check_vectors(maker: VectorMaker) -> None:
    """Run the whole contract.

    Args:
        maker: Loads an embedding or a reranking model.
    """
    for check in VECTOR_CHECKS:
        check(maker)


def rows_of(
    loaded: LoadedVectors, texts: tuple[str, ...] = TEXTS, *, limit: int | None = None
) -> list[TokenRow]:
    """Rows as the model's purpose has them: texts, or texts as documents for one query."""
    if loaded.engine.info.purpose == "embedding":
        return loaded.tokenizer.encode(texts, limit=limit)
    return loaded.tokenizer.encode_pairs([(QUERY, text) for text in texts], limit=limit)


def tolerance_of(loaded: LoadedVectors) -> float:
    """How much neighbours may change a number."""
    return TOLERANCES.get(loaded.engine.info.engine, TOLERANCE)


def check_info(maker: VectorMaker) -> None:
    """The engine says what it is: a purpose, a width that fits it, and its longest row."""
    with opened(maker) as (engine, tokenizer, _):
        info = engine.info
        assert info.purpose in {"embedding", "reranking"}
        assert (info.width > 0) == (info.purpose == "embedding")
        assert tokenizer.max_tokens == info.context_tokens
        assert info.weight_bytes > 0
        assert engine.batch_tokens > 0


def check_shape(maker: VectorMaker) -> None:
    """A batch of N gives N finite float32 rows, of the model's width or, for scores, of one."""
    with opened(maker) as loaded:
        info = loaded.engine.info
        for count in (1, 2, len(TEXTS)):
            found = loaded.engine.compute(rows_of(loaded, TEXTS[:count]))
            assert (count, info.width or 1) == found.shape
            assert np.dtype(np.float32) == found.dtype
            assert np.isfinite(found).all()
            if info.purpose == "reranking":
                assert 0 <= found.min() <= found.max() <= 1


def check_rows_differ(maker: VectorMaker) -> None:
    """Different texts have different numbers, and the same text the same."""
    with opened(maker) as loaded:
        first, other, again = loaded.engine.compute(rows_of(loaded, (TEXTS[0], TEXTS[3], TEXTS[0])))
        assert np.abs(first - other).max() > 5 * tolerance_of(loaded)
        assert np.abs(first - again).max() <= tolerance_of(loaded)


def check_batch_equals_alone(maker: VectorMaker) -> None:
    """Neighbours and their order change nothing, whatever the mix of lengths."""
    with opened(maker) as loaded:
        rows = rows_of(loaded)
        alone = np.concatenate([loaded.engine.compute([row]) for row in rows])
        shuffler = np.random.default_rng(7)
        for count in (len(rows), len(rows), 5, 3, 2):
            order = shuffler.permutation(len(rows))[:count].tolist()
            together = loaded.engine.compute([rows[index] for index in order])
            assert np.abs(together - alone[order]).max() <= tolerance_of(loaded)


def check_pads_change_nothing(maker: VectorMaker) -> None:
    """A short row beside the longest possible one keeps its numbers."""
    with opened(maker) as loaded:
        limit = loaded.tokenizer.max_tokens
        short, long = rows_of(loaded, (TEXTS[1], ENDLESS), limit=limit)
        alone = loaded.engine.compute([short])
        for rows, place in (([short, long], 0), ([long, short], 1)):
            found = loaded.engine.compute(rows)
            assert np.abs(found[place] - alone[0]).max() <= tolerance_of(loaded)


def check_empty_text(maker: VectorMaker) -> None:
    """An empty text is a row like any other: at least one id, and finite numbers."""
    with opened(maker) as loaded:
        rows = rows_of(loaded, ("",))
        assert 1 == len(rows)
        assert len(rows[0].ids) >= 1
        assert np.isfinite(loaded.engine.compute(rows)).all()


def check_longest_row(maker: VectorMaker) -> None:
    """A text without end is cut to the limit, exactly, and a row of the limit computes."""
    with opened(maker) as loaded:
        limit = loaded.tokenizer.max_tokens
        (row,) = rows_of(loaded, (ENDLESS,), limit=limit)
        assert limit == len(row.ids)
        assert np.isfinite(loaded.engine.compute([row])).all()


def check_limits_do_not_stay(maker: VectorMaker) -> None:
    """A limit holds for the call that names it: before and after it texts are whole."""
    with opened(maker) as loaded:
        whole = rows_of(loaded)
        longest = max(len(row.ids) for row in whole)
        shorter = longest - 3
        cut = rows_of(loaded, limit=shorter)
        assert shorter == max(len(row.ids) for row in cut)
        assert whole == rows_of(loaded)
        assert whole == rows_of(loaded, limit=longest)
        assert whole == [row for text in TEXTS for row in rows_of(loaded, (text,))]
        endless = rows_of(loaded, (ENDLESS,))
        assert len(endless[0].ids) > loaded.tokenizer.max_tokens


def check_quiesce(maker: VectorMaker) -> None:
    """Waiting for the device is harmless before, between and after batches."""
    with opened(maker) as loaded:
        rows = rows_of(loaded)
        loaded.engine.quiesce()
        before = loaded.engine.compute(rows)
        loaded.engine.quiesce()
        loaded.engine.quiesce()
        assert np.abs(before - loaded.engine.compute(rows)).max() <= tolerance_of(loaded)


def check_shrink(maker: VectorMaker) -> None:
    """Giving memory back changes no numbers and keeps none that was only for speed."""
    with opened(maker) as loaded:
        rows = rows_of(loaded)
        resting = loaded.engine.memory().active_bytes
        before = loaded.engine.compute(rows)
        loaded.engine.shrink()
        assert loaded.engine.memory().active_bytes <= resting + MEMORY_SLACK_BYTES
        assert np.abs(before - loaded.engine.compute(rows)).max() <= tolerance_of(loaded)


def check_results_are_kept(maker: VectorMaker) -> None:
    """What a batch gave stays as it is when the next one is computed."""
    with opened(maker) as loaded:
        rows = rows_of(loaded)
        first = loaded.engine.compute(rows[:2])
        copy = first.copy()
        loaded.engine.compute(rows[2:4])
        assert np.array_equal(copy, first)


def check_memory(maker: VectorMaker) -> None:
    """Batches give their memory back, and so does the engine when it is closed."""
    with opened(maker) as loaded:
        before = loaded.engine.memory()
        for _ in range(3):
            loaded.engine.compute(rows_of(loaded))
        loaded.engine.shrink()
        after = loaded.engine.memory()
        assert after.active_bytes <= before.active_bytes + MEMORY_SLACK_BYTES
        assert after.peak_bytes >= after.active_bytes
    for _ in range(3):
        with opened(maker) as loaded:
            now = loaded.engine.memory().active_bytes
            assert now <= before.active_bytes + MEMORY_SLACK_BYTES


VECTOR_CHECKS = (
    check_info,
    check_shape,
    check_rows_differ,
    check_batch_equals_alone,
    check_pads_change_nothing,
    check_empty_text,
    check_longest_row,
    check_limits_do_not_stay,
    check_quiesce,
    check_shrink,
    check_results_are_kept,
    check_memory,
)
