"""llama-cpp-python's high-level `create_chat_completion`, in a process of its own.

It has no batch: prompts are answered one after another. Arguments: the setup, then ``tuned`` or
``default``. Reads and answers as `bare_llama` does, timed from the message to the whole answer.
"""

import json
import sys
import time
from typing import Any

from llama_cpp import Llama

from scripts.bench.gguf import Setup, setup_from_arguments


def load(setup: Setup, *, is_tuned: bool) -> Any:
    """The model, either as the API loads it by itself or with all that the setup says."""
    tuned = {
        "n_batch": setup.batch_tokens,
        "n_ubatch": setup.batch_tokens,
        "n_threads": setup.threads,
        "n_threads_batch": setup.threads,
        "flash_attn": True,  # what the low-level API chooses
    }
    return Llama(
        setup.model,
        n_ctx=setup.context_tokens,
        n_gpu_layers=-1,
        verbose=False,
        **(tuned if is_tuned else {}),
    )


def run(llama: Any, request: dict[str, Any]) -> dict[str, float]:
    """Answer every prompt; tokens are the API's own count."""
    tokens = prompt_tokens = 0
    began_s = time.perf_counter()
    for prompt in request["prompts"]:
        answer = llama.create_chat_completion(
            [{"role": "user", "content": prompt}],
            temperature=0.0,
            max_tokens=request["max_tokens"],
        )
        tokens += answer["usage"]["completion_tokens"]
        prompt_tokens += answer["usage"]["prompt_tokens"]
    seconds = time.perf_counter() - began_s
    return {"tokens": tokens, "seconds": seconds, "prompt_tokens": prompt_tokens}


def main() -> None:
    """Load the model and serve requests until the input ends."""
    llama = load(setup_from_arguments(), is_tuned=sys.argv[2] == "tuned")
    for line in sys.stdin:
        print(json.dumps(run(llama, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
