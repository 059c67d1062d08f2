"""The ceiling: an engine of vectors or scores driven directly, in a process of its own.

Rows sorted by length go to `compute` in batches under the engine's own budget. Arguments: engine,
model, purpose. Requests and answers are lines, as `scripts.bench.vector_work` has them.
"""

import sys
from collections.abc import Sequence

from lmx.engines import load_engine
from lmx.engines.vectors import LoadedVectors
from lmx.protocol.messages import Load
from lmx.protocol.values import Purpose
from scripts.bench.vector_work import answer_lines, run_batches

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
        return run_batches(
            [len(row.ids) for row in rows],
            engine.batch_tokens,
            MOST_ROWS,
            lambda batch: engine.compute([rows[at] for at in batch]),
        )

    answer_lines(compute)


if __name__ == "__main__":
    main()
