"""The ceiling: llama.cpp's low-level API in a plain loop, in a process of its own.

All prompts go into one cache, then each pass computes one token of every sequence, and numpy takes
the largest logit of each row. No stops, no text, no clients. Reads one JSON request per line from
standard input, ``{"prompts": [...], "max_tokens": n}``, and answers each with ``{"tokens": n,
"seconds": s, "prompt_tokens": n}``, timed from the token ids to the last token.
"""

import json
import sys
import time
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from numpy.typing import NDArray

from scripts.bench.gguf import Setup, setup_from_arguments

Ids = NDArray[np.int32]


def discard(_level: int, _text: bytes, _user_data: Any) -> None:
    """What llama.cpp says of its loading is not wanted."""


class BareLlama:
    """A model, a context and one batch."""

    def __init__(self, setup: Setup) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = -1
        self._model = llama_cpp.llama_model_load_from_file(setup.model.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = setup.context_tokens * setup.sequences
        params.n_seq_max = setup.sequences
        params.n_batch = params.n_ubatch = setup.batch_tokens
        params.n_threads = params.n_threads_batch = setup.threads
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._capacity = setup.batch_tokens
        self._batch = llama_cpp.llama_batch_init(self._capacity, 0, 1)
        # Views of the batch's own memory.
        fields = (self._batch.token, self._batch.pos, self._batch.logits, self._batch.n_seq_id)
        views = [np.ctypeslib.as_array(pointer, (self._capacity,)) for pointer in fields]
        self._tokens, self._positions, self._wanted, owner_counts = views
        owner_counts[:] = 1

    def tokenize(self, prompt: str) -> Ids:
        """The token ids of a user's message, rendered by the file's chat template."""
        template = llama_cpp.llama_model_chat_template(self._model, None).decode()
        render = Jinja2ChatFormatter(template, eos_token="", bos_token="")
        text = render(messages=[{"role": "user", "content": prompt}]).prompt.encode()
        ids = np.zeros(len(text) + 8, dtype=np.int32)
        pointer = ids.ctypes.data_as(llama_cpp.llama_token_p)
        special = (True, True)  # add what the model begins with; read the template's own tokens
        count = llama_cpp.llama_tokenize(self._vocab, text, len(text), pointer, len(ids), *special)
        return ids[:count]

    def generate(self, prompts: list[Ids], max_tokens: int) -> None:
        """Greedy tokens for every prompt, to the limit."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)  # noqa: FBT003  # a C function
        count = len(prompts)
        newest = self._prefill(prompts)
        self._positions[:count] = [len(prompt) - 1 for prompt in prompts]
        self._wanted[:count] = 1
        for row in range(count):
            self._batch.seq_id[row][0] = row
        for _ in range(max_tokens - 1):
            self._tokens[:count] = newest
            self._positions[:count] += 1
            newest = self._decode(count, outputs=count)

    def _prefill(self, prompts: list[Ids]) -> NDArray[np.intp]:
        """All prompts in full passes; returns the first token of each answer."""
        tokens = np.concatenate(prompts)
        positions = np.concatenate([np.arange(len(prompt)) for prompt in prompts])
        owners = np.repeat(np.arange(len(prompts)), [len(prompt) for prompt in prompts])
        wanted = np.append(owners[1:] != owners[:-1], True)  # the last row ends one
        first: list[NDArray[np.intp]] = []
        for start in range(0, len(tokens), self._capacity):
            part = slice(start, start + self._capacity)
            count = len(tokens[part])
            self._tokens[:count] = tokens[part]
            self._positions[:count] = positions[part]
            self._wanted[:count] = wanted[part]
            for row, owner in enumerate(owners[part].tolist()):
                self._batch.seq_id[row][0] = owner
            first.append(self._decode(count, outputs=int(wanted[part].sum())))
        return np.concatenate(first)

    def _decode(self, count: int, *, outputs: int) -> NDArray[np.intp]:
        """One pass; returns the likeliest token of each row whose logits are wanted."""
        self._batch.n_tokens = count
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode gave {code}")
        if not outputs:
            return np.empty(0, dtype=np.intp)
        pointer = llama_cpp.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, (outputs, self._vocabulary_size))
        newest: NDArray[np.intp] = logits.argmax(axis=1)
        return newest


def run(llama: BareLlama, request: dict[str, Any]) -> dict[str, float]:
    """Generate for every prompt in one batch."""
    prompts = [llama.tokenize(prompt) for prompt in request["prompts"]]
    began_s = time.perf_counter()
    llama.generate(prompts, request["max_tokens"])
    return {
        "tokens": len(prompts) * request["max_tokens"],
        "seconds": time.perf_counter() - began_s,
        "prompt_tokens": sum(len(prompt) for prompt in prompts),
    }


def main() -> None:
    """Load the model and serve requests until the input ends."""
    callback = llama_cpp.llama_log_callback(discard)  # kept: the library keeps only its address
    llama_cpp.llama_log_set(callback, None)
    llama = BareLlama(setup_from_arguments())
    for line in sys.stdin:
        print(json.dumps(run(llama, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
