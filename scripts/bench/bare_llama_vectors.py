"""The ceiling for GGUF embedders: llama.cpp's low-level API in a plain loop, in its own process.

Texts are tokenised, sorted by length and computed in batches of whole texts; the file says how
they are pooled. Arguments: the file, the threads, and the tokens of a batch. Requests and answers
are lines, as `scripts.bench.vector_work` has them.
"""

import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from scripts.bench.vector_work import answer_lines, run_batches

Ids = NDArray[np.int32]
# Sequences of one batch.
MOST_ROWS = 64


def discard(_level: int, _text: bytes, _user_data: Any) -> None:
    """What llama.cpp says of its loading is not wanted."""


class BareEmbedder:
    """A model, a context and one batch."""

    def __init__(self, path: str, *, threads: int, batch_tokens: int) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = -1
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = batch_tokens
        params.n_seq_max = MOST_ROWS
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._width = llama_cpp.llama_model_n_embd(self._model)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._limit = min(batch_tokens, llama_cpp.llama_model_n_ctx_train(self._model))
        self.batch_tokens = batch_tokens
        self._batch = llama_cpp.llama_batch_init(batch_tokens, 0, 1)
        # Views of the batch's own memory.
        fields = (self._batch.token, self._batch.pos, self._batch.logits, self._batch.n_seq_id)
        views = [np.ctypeslib.as_array(pointer, (batch_tokens,)) for pointer in fields]
        self._tokens, self._positions, self._wanted, owner_counts = views
        owner_counts[:] = self._wanted[:] = 1

    def tokenize(self, text: str) -> Ids:
        """The token ids of a text, with those that the model begins and ends with."""
        data = text.encode()
        ids = np.zeros(len(data) + 8, dtype=np.int32)
        pointer = ids.ctypes.data_as(llama_cpp.llama_token_p)
        special = (True, False)  # add the model's own; what looks like one in a text is text
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), pointer, len(ids), *special)
        return ids[: min(count, self._limit)]

    def compute(self, rows: list[Ids]) -> NDArray[np.float32]:
        """Vectors of length 1.

        Shapes: -> (N, D) float32.
        """
        if self._memory is not None:
            llama_cpp.llama_memory_clear(self._memory, False)  # noqa: FBT003  # a C function
        lengths = [len(row) for row in rows]
        total = sum(lengths)
        self._tokens[:total] = np.concatenate(rows)
        self._positions[:total] = np.concatenate([np.arange(length) for length in lengths])
        for place, owner in enumerate(np.repeat(np.arange(len(rows)), lengths).tolist()):
            self._batch.seq_id[place][0] = owner
        self._batch.n_tokens = total
        run = llama_cpp.llama_decode if self._memory is not None else llama_cpp.llama_encode
        if code := run(self._context, self._batch):
            raise RuntimeError(f"llama.cpp gave {code}")
        pointers = [llama_cpp.llama_get_embeddings_seq(self._context, n) for n in range(len(rows))]
        vectors = np.stack([np.ctypeslib.as_array(p, (self._width,)) for p in pointers])
        normalised: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normalised


def main() -> None:
    """Load the model and serve requests until the input ends."""
    callback = llama_cpp.llama_log_callback(discard)  # kept: the library keeps only its address
    llama_cpp.llama_log_set(callback, None)
    path, threads, batch_tokens = sys.argv[1:]
    embedder = BareEmbedder(path, threads=int(threads), batch_tokens=int(batch_tokens))

    def compute(texts: list[str], query: str) -> tuple[Sequence[float], float]:
        if query:
            raise SystemExit("this loop embeds and does not score")
        rows = [embedder.tokenize(text) for text in texts]
        return run_batches(
            [len(row) for row in rows],
            embedder.batch_tokens,
            MOST_ROWS,
            lambda batch: embedder.compute([rows[at] for at in batch]),
        )

    answer_lines(compute)


if __name__ == "__main__":
    main()
