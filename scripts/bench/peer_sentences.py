"""The peer: sentence-transformers on the CPU, as it comes, run by the peer's own interpreter.

Arguments: the model's directory, and ``embedding`` or ``reranking``. Requests and answers are
lines, as `scripts.bench.vector_work` has them. Batches, threads and sorting are the library's.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from scripts.bench.vector_work import answer_lines


def main() -> None:
    """Load the model and serve requests until the input ends."""
    source, purpose = sys.argv[1:]
    library: Any = importlib.import_module("sentence_transformers")
    if purpose == "embedding":
        embedder = library.SentenceTransformer(source, device="cpu")

        def compute(texts: list[str], query: str) -> tuple[Sequence[float], float]:
            del query  # there is none
            return embedder.encode(texts, show_progress_bar=False)[0].tolist(), 0.0

    else:
        scorer = library.CrossEncoder(source, device="cpu")

        def compute(texts: list[str], query: str) -> tuple[Sequence[float], float]:
            pairs = [(query, text) for text in texts]
            return [float(scorer.predict(pairs, show_progress_bar=False)[0])], 0.0

    answer_lines(compute)


if __name__ == "__main__":
    main()
