"""A llama.cpp context by hand, for tests below the engine. Needs llama-cpp-python."""

from pathlib import Path

from lmx.engines.llama.batch import RowBatch
from lmx.engines.llama.library import ContextSize, LlamaContext, LlamaModel
from lmx.engines.llama.transfer import StateTransfer
from lmx.protocol.values import GgufOptions

SPARE = 2


class Opened:
    """A context of two sequences and a spare one, and what takes state out of it."""

    def __init__(self, path: Path, cells: int = 256) -> None:
        self.model = LlamaModel(str(path), GgufOptions())
        self.context = LlamaContext(self.model, ContextSize(cells, 3, 64, threads=1))
        self.transfer = StateTransfer(self.context, SPARE)

    def decode(self, slot: int, ids: list[int], position: int) -> list[float]:
        """Logits after the last of these tokens."""
        batch = RowBatch(64)
        batch.append(slot, ids, position, wanted_from=len(ids) - 1)
        assert 0 == self.context.decode(batch)
        logits: list[float] = self.context.logits(batch.outputs)[0].tolist()
        return logits

    def close(self) -> None:
        """Free everything."""
        self.context.close()
        self.model.close()
