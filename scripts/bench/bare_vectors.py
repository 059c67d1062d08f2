"""The ceiling: an engine of vectors or scores driven directly, in a process of its own.

Rows sorted by length go to `compute` in batches under the engine's own budget. Arguments: engine,
model, purpose. Requests and answers are lines, as `scripts.bench.vector_work` has them.
"""

import sys
import time
from collections.abc import Sequence

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from scripts.bench.vector_work import answer_lines, batches_within

# As many as a request may have: the budget of tokens is what limits a batch.
MOST_ROWS = 2048
PURPOSES: dict[str, Purpose] = {"embedding": "embedding", "reranking": "reranking"}


def main() -> None:
    """Load the model and serve requests until the input ends."""
    engine_name, source, purpose = sys.argv[1:]
    load = Load(engine_name, source, MOST_ROWS, purpose=PURPOSES[purpose])
    loaded = load_engine(load)
    if not isinstance(loaded, LoadedVectors):
        raise SystemExit(f"{source} gives no numbers")
    engine, tokenizer = loaded.engine, loaded.tokenizer
    limit = tokenizer.max_tokens

    def compute(texts: list[str], query: str) -> tuple[Sequence[float], float]:
        if query:
            rows = tokenizer.encode_pairs([(query, text) for text in texts], limit=limit)
        else:
            rows = tokenizer.encode(texts, limit=limit)
        lengths = [len(row.ids) for row in rows]
        first: Sequence[float] = ()
        began_s = time.perf_counter()
        for batch in batches_within(lengths, engine.batch_tokens, MOST_ROWS):
            numbers = engine.compute([rows[at] for at in batch])
            if 0 in batch:
                first = numbers[batch.index(0)].tolist()
        return first, time.perf_counter() - began_s

    answer_lines(compute)


if __name__ == "__main__":
    main()
