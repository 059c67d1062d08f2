"""What every side of the GGUF benchmark is told, so that all of them compute the same work."""

import dataclasses
import json
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """One model and the sizes it is run with.

    Attributes:
        model: Path of the GGUF file.
        threads: CPU threads, for prompts and for single tokens.
        context_tokens: Most tokens of one sequence.
        sequences: Most sequences at once; the cache holds a full context of each.
        batch_tokens: Most tokens of one pass.
    """

    model: str
    threads: int
    context_tokens: int
    sequences: int
    batch_tokens: int

    def as_argument(self) -> str:
        """For a child's command line."""
        return json.dumps(dataclasses.asdict(self))


def setup_from_arguments() -> Setup:
    """What the parent gave this process."""
    return Setup(**json.loads(sys.argv[1]))
