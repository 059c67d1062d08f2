"""The ceiling: mlx-lm's own `BatchGenerator` driven directly, in a process of its own.

Reads one JSON request per line from standard input, ``{"prompts": [...], "max_tokens": n}``, and
answers each with ``{"tokens": n, "seconds": s}``, timed from insertion to the last token.
"""

import json
import sys
import time
from typing import Any

from lmx.engines.mlx import blas


def run(model: Any, tokenizer: Any, request: dict[str, Any]) -> dict[str, float]:
    """Generate for every prompt in one batch."""
    from mlx_lm.generate import BatchGenerator  # noqa: PLC0415  # after the BLAS is in place

    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True
        )
        for prompt in request["prompts"]
    ]
    stops = [[token] for token in tokenizer.eos_token_ids]
    generator = BatchGenerator(model, stop_tokens=stops, max_tokens=request["max_tokens"])
    tokens, left = 0, len(prompts)
    began_s = time.perf_counter()
    generator.insert(prompts)
    while left:
        for response in generator.next_generated():
            tokens += 1
            left -= response.finish_reason is not None
    seconds = time.perf_counter() - began_s
    generator.close()
    return {"tokens": tokens, "seconds": seconds}


def main() -> None:
    """Load the model named on the command line and serve requests until the input ends."""
    blas.prepare()
    from mlx_lm import load  # noqa: PLC0415  # after the BLAS is in place

    model, tokenizer = load(sys.argv[1])[:2]
    for line in sys.stdin:
        print(json.dumps(run(model, tokenizer, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
